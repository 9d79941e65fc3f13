//! Which requests are to be lost, and which ones were.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// How an answer gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server did what was asked; nobody heard of it.
    AfterRequest,
    /// The server never got the request.
    BeforeRequest,
}

/// A fault that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// What happened.
    pub fault: Fault,
    /// What the request contained.
    pub needle: Vec<u8>,
    /// On which connection, counted from 0 in the order in which they were accepted.
    pub connection: usize,
    /// How many bytes of the server's answer the client did not get; 0 for [`Fault::BeforeRequest`].
    pub swallowed: usize,
}

/// What is armed, and the ledger of what has happened.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Mutex<Vec<Armed>>,
    fired: Mutex<Vec<Fired>>,
    /// The next request that executes a prepared statement finds that the server has forgotten it.
    forgets: AtomicBool,
    /// Told to deliver a request that is held.
    pub(super) deliver: Notify,
    /// Requests that were held and delivered, and that the server has done.
    pub(super) delivered: AtomicUsize,
}

/// One fault that waits for its request.
#[derive(Clone, Debug)]
pub(super) struct Armed {
    pub(super) fault: Fault,
    pub(super) needle: Vec<u8>,
    /// Nobody is told: the connections stay open.
    pub(super) holds: bool,
}

impl Faults {
    pub(super) fn arm(&self, fault: Fault, needle: &[u8], holds: bool) {
        assert!(!needle.is_empty(), "an empty needle is in every request");
        let armed = Armed { fault, needle: needle.to_vec(), holds };
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).push(armed);
    }

    pub(super) fn arm_forgetting(&self) {
        self.forgets.store(true, Ordering::SeqCst);
    }

    /// True once for each arming.
    pub(super) fn forgets(&self) -> bool {
        self.forgets.swap(false, Ordering::SeqCst)
    }

    pub(super) fn armed(&self) -> usize {
        let forgets = usize::from(self.forgets.load(Ordering::SeqCst));
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).len() + forgets
    }

    /// Takes the first armed fault whose needle is in `request`: it cannot strike another connection too.
    pub(super) fn take(&self, request: &[u8]) -> Option<Armed> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = armed.iter().position(|armed| contains(request, &armed.needle))?;
        Some(armed.remove(hit))
    }

    /// Bytes at the end of a request that may be the beginning of a needle.
    pub(super) fn overlap(&self) -> usize {
        let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.iter().map(|armed| armed.needle.len() - 1).max().unwrap_or(0)
    }

    pub(super) fn record(&self, armed: Armed, connection: usize, swallowed: usize) {
        let fired = Fired { fault: armed.fault, needle: armed.needle, connection, swallowed };
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).push(fired);
    }

    pub(super) fn fired(&self) -> Vec<Fired> {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
