//! A loopback TCP proxy between a client under test and a real server.
//!
//! It counts the round trips of each connection on the wire, and loses answers on purpose: after the server did what was
//! asked ([`cut_after_request`](Proxy::cut_after_request)), or before it heard of it
//! ([`cut_before_request`](Proxy::cut_before_request)), and stands for a slower network
//! ([`add_latency`](Proxy::add_latency)). It knows bytes and whose turn it is, and of protocols only the text that MariaDB's
//! clients prepare and then execute by number, so it serves PostgreSQL and MariaDB alike; their connections must not be encrypted ([`servers::through`] sees to that).
//!
//! A [`Wire`] stands between the same two and spoils the bytes instead.

mod fault;
mod link;
mod quality;
mod statements;
#[cfg(test)]
mod tests;
mod wire;
#[cfg(test)]
mod wire_tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use fault::{Fault, Fired};
pub use quality::Quality;
pub use wire::{Carried, Wire};

use crate::servers;
use fault::Faults;

/// A proxy that runs until it is dropped; dropping it cuts all of its connections.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect to.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What the proxy and its connections share.
#[derive(Debug, Default)]
struct Shared {
    faults: Faults,
    /// What every round trip takes longer, in microseconds.
    latency_us: AtomicU64,
    /// Round trips by connection, in the order in which they were accepted.
    round_trips: Mutex<Vec<Arc<AtomicU64>>>,
    /// Cancelled to cut what is connected now, and then replaced.
    cut: Mutex<CancellationToken>,
}

impl Proxy {
    /// Listens on a free port of the loopback and connects every client to `upstream` (`host:port`).
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(upstream: impl Into<String>) -> Self {
        let upstream = upstream.into();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on the loopback");
        let addr = listener.local_addr().expect("a listener has an address");
        let (shared, stop) = (Arc::new(Shared::default()), CancellationToken::new());
        let accepting = accept(listener, upstream, Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { addr, shared, stop }
    }

    /// A proxy in front of the server of this URL, and the URL that leads through it.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let proxy = Self::start(servers::address_of(url)).await;
        let url = servers::through(url, proxy.addr);
        (proxy, url)
    }

    /// Round trips of all connections since the start or the last [`reset`](Self::reset).
    ///
    /// One is a burst from the client, however many packets it has, followed by the first byte of an answer. Opening a
    /// connection takes several. What a server says unasked is none.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips_by_connection().iter().sum()
    }

    /// The same by connection, in the order in which they were accepted; ended ones included.
    #[must_use]
    pub fn round_trips_by_connection(&self) -> Vec<u64> {
        let counters = self.shared.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect()
    }

    /// Sets every counter to zero; connections keep their places.
    pub fn reset(&self) {
        let counters = self.shared.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().for_each(|counter| counter.store(0, Ordering::SeqCst));
    }

    /// Arms, once: the next request that contains `needle` reaches the server, which does it to the end; its answer is
    /// swallowed, and then both sides are closed. *The answer is lost, the server did it.*
    pub fn cut_after_request(&self, needle: &[u8]) {
        self.shared.faults.arm(Fault::AfterRequest, needle, false);
    }

    /// Arms, once: the next request that contains `needle` does not reach the server; both sides are closed.
    /// *The answer is lost, the server did not do it.*
    pub fn cut_before_request(&self, needle: &[u8]) {
        self.shared.faults.arm(Fault::BeforeRequest, needle, false);
    }

    /// Arms, once: as [`cut_after_request`](Self::cut_after_request), but the client's side stays open, so that it goes on waiting:
    /// for a test that kills it there.
    pub fn hold_after_request(&self, needle: &[u8]) {
        self.shared.faults.arm(Fault::AfterRequest, needle, true);
    }

    /// Arms, once: the next request that contains `needle` stays here, and both sides stay open, until
    /// [`deliver_held`](Self::deliver_held) or [`cut_all`](Self::cut_all).
    pub fn hold_before_request(&self, needle: &[u8]) {
        self.shared.faults.arm(Fault::BeforeRequest, needle, true);
    }

    /// What is held reaches the server after all, which does it to the end; the answer is swallowed. Call it when the client is gone.
    pub fn deliver_held(&self) {
        self.shared.faults.deliver.notify_one();
    }

    /// How many requests that were held the server has done.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.shared.faults.delivered.load(Ordering::SeqCst)
    }

    /// Arms, once: the next request that executes a statement of MariaDB by its number finds that the server has forgotten all that
    /// its session has prepared, as behind a proxy that resets sessions.
    pub fn forget_prepared(&self) {
        self.shared.faults.arm_forgetting();
    }

    /// From now on every round trip takes `latency` longer: requests are held that long before the server gets them, those of
    /// different connections at the same time. The runtime's timer rounds up to the next millisecond.
    pub fn add_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.shared.latency_us.store(micros, Ordering::SeqCst);
    }

    /// Closes everything that is connected now. New connections are accepted as before.
    pub fn cut_all(&self) {
        let mut cut = self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    /// The faults that have happened, in order. A fault is listed before its client can notice it.
    #[must_use]
    pub fn fired(&self) -> Vec<Fired> {
        self.shared.faults.fired()
    }

    /// Faults that are armed and have not happened.
    #[must_use]
    pub fn armed(&self) -> usize {
        self.shared.faults.armed()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    /// A new connection: its number, its counter, and what cuts it.
    fn connected(&self) -> (usize, Arc<AtomicU64>, CancellationToken) {
        let counter = Arc::new(AtomicU64::new(0));
        let mut counters = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        counters.push(Arc::clone(&counter));
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (counters.len() - 1, counter, cut)
    }
}

/// Accepts until it is dropped, which ends its connections with it.
async fn accept(listener: TcpListener, upstream: String, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (upstream, shared) = (upstream.clone(), Arc::clone(&shared));
                links.spawn(async move {
                    // A server that cannot be reached looks to the client like one that closes at once.
                    let Ok(server) = TcpStream::connect(upstream).await else { return };
                    let (connection, counter, cut) = shared.connected();
                    let link = link::Link::new(connection, counter, &shared.faults, &shared.latency_us);
                    // Cut, or broken by either side: in both cases the sockets are closed, and that is all there is to do.
                    let _ = cut.run_until_cancelled(link.run(client, server)).await;
                });
            }
            Some(_) = links.join_next() => {}
        }
    }
}
