//! What the cases have in common: branches with ids of their own, and calls that say what went wrong.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use uuid::Uuid;

use super::{EndSessions, Subject, Suite};
use crate::distributed::{
    Ack, BranchId, CoordinatorId, Decision, Gid, Resource, RmError, TransactionParticipant, Vote,
    core::BranchKind,
};

/// The pause between two tries of a call that may be tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How often such a call is tried.
const TRIES: u32 = 600;

/// A log that never was, and the subject.
pub(super) struct Bench<S: Subject> {
    pub(super) subject: S,
    pub(super) transactions: u64,
    pub(super) at_once: usize,
    pub(super) end_sessions: Option<EndSessions>,
    pub(super) coordinator: CoordinatorId,
    /// Keys that no other run on the same database has.
    next: AtomicU64,
    /// What a case may have left, to be swept up after it.
    branches: Mutex<Vec<BranchId>>,
}

/// One branch under test.
pub(super) struct Begun<S: Subject> {
    pub(super) branch: BranchId,
    pub(super) key: u64,
    pub(super) it: S::Participant,
}

/// Ok when `is`, else `what` went wrong.
pub(super) fn must(is: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is { Ok(()) } else { Err(what()) }
}

impl<S: Subject> Bench<S> {
    pub(super) fn new(suite: Suite<S>) -> Self {
        let Suite { subject, transactions, at_once, end_sessions } = suite;
        let coordinator = CoordinatorId { id: Uuid::now_v7(), epoch: 1 };
        // Within the numbers of every database.
        let first = Uuid::now_v7().as_u64_pair().1 >> 24;
        let (next, branches) = (AtomicU64::new(first), Mutex::default());
        Self { subject, transactions, at_once, end_sessions, coordinator, next, branches }
    }

    pub(super) fn kind(&self) -> BranchKind {
        self.subject.participant().kind()
    }

    pub(super) fn resource(&self) -> Arc<dyn Resource> {
        self.subject.resource()
    }

    pub(super) fn key(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An id that nobody has had.
    pub(super) fn branch(&self) -> BranchId {
        self.branch_of(self.coordinator, 0)
    }

    pub(super) fn branch_of(&self, coordinator: CoordinatorId, ordinal: u16) -> BranchId {
        let branch = BranchId { coordinator, gid: Gid::fresh(), ordinal };
        self.branches.lock().unwrap_or_else(PoisonError::into_inner).push(branch);
        branch
    }

    /// A branch that has begun, and in which something was done.
    pub(super) async fn worked(&self) -> Result<Begun<S>, String> {
        self.worked_in(self.branch()).await
    }

    pub(super) async fn worked_in(&self, branch: BranchId) -> Result<Begun<S>, String> {
        let (key, it) = (self.key(), self.subject.participant());
        it.begin(&branch).await.map_err(|error| format!("begin: {error}"))?;
        self.subject.work(&it, key).await.map_err(|error| format!("work: {error}"))?;
        Ok(Begun { branch, key, it })
    }

    /// A branch that has prepared.
    pub(super) async fn prepared(&self) -> Result<Begun<S>, String> {
        self.prepared_in(self.branch()).await
    }

    pub(super) async fn prepared_in(&self, branch: BranchId) -> Result<Begun<S>, String> {
        let begun = self.worked_in(branch).await?;
        let vote = begun.it.prepare(&begun.branch).await;
        must(vote == Ok(Vote::Prepared), || format!("work was done, and prepare said {vote:?}"))?;
        Ok(begun)
    }

    /// That the work of a key is there so often.
    pub(super) async fn happened(&self, key: u64, times: u64) -> Result<(), String> {
        let is = self.subject.happened(key).await.map_err(|error| format!("happened: {error}"))?;
        must(is == times, || format!("the work is there {is} times, not {times}"))
    }

    /// The branches of a log that are prepared, in their order.
    pub(super) async fn listed(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, String> {
        let found = self.resource().prepared(coordinator).await;
        let mut found = found.map_err(|error| format!("listing the prepared branches: {error}"))?;
        found.sort_by_key(|branch| (branch.gid, branch.ordinal));
        Ok(found)
    }

    pub(super) async fn nothing_is_left(&self) -> Result<(), String> {
        let left = self.listed(self.coordinator).await?;
        must(left.is_empty(), || format!("{} branches are left prepared", left.len()))
    }

    /// The answer of a participant that is told to end, once it is one.
    pub(super) async fn told(&self, begun: &Begun<S>, decision: Decision) -> Result<Ack, String> {
        answered(decision, || match decision {
            Decision::Commit => begun.it.commit(&begun.branch),
            Decision::Abort => begun.it.rollback(&begun.branch),
        })
        .await
    }

    /// The same from a process that has not begun the branch.
    pub(super) async fn finished(&self, branch: &BranchId, decision: Decision) -> Result<Ack, String> {
        let resource = self.resource();
        answered(decision, || resource.finish(branch, decision)).await
    }

    /// Ends whatever the last case has left. What is wrong was said already.
    pub(super) async fn sweep(&self) {
        let branches = std::mem::take(&mut *self.branches.lock().unwrap_or_else(PoisonError::into_inner));
        let resource = self.resource();
        for branch in branches {
            let listed = resource.prepared(branch.coordinator).await;
            if listed.is_ok_and(|listed| listed.contains(&branch)) {
                drop(resource.finish(&branch, Decision::Abort).await);
            }
            drop(resource.forget(&branch).await);
        }
    }
}

/// Asks until the answer is one. What is retryable or unknown may be asked again.
async fn answered<F>(decision: Decision, ask: impl Fn() -> F) -> Result<Ack, String>
where
    F: Future<Output = Result<Ack, RmError>>,
{
    let mut said = None;
    for _ in 0..TRIES {
        match ask().await {
            Ok(ack) => return Ok(ack),
            Err(error @ (RmError::Retryable(_) | RmError::Unknown(_))) => said = Some(error),
            Err(error) => return Err(format!("told to {decision:?}, it said {error:?}")),
        }
        tokio::time::sleep(AGAIN).await;
    }
    Err(format!("told to {decision:?} {TRIES} times, it said {said:?}"))
}

/// That the answer is the one that is expected.
pub(super) fn says(ack: Result<Ack, String>, expected: Ack, when: &str) -> Result<(), String> {
    let ack = ack.map_err(|error| format!("{when}: {error}"))?;
    must(ack == expected, || format!("{when}: the answer is {ack:?}, not {expected:?}"))
}

/// Polls a call so often and drops it then, wherever it is. Its answer, if it came before.
pub(super) async fn dropped_after<T>(polls: u32, call: impl Future<Output = T>) -> Option<T> {
    let (mut call, mut polled) = (pin!(call), 0);
    poll_fn(move |cx| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        call.as_mut().poll(cx).map(Some)
    })
    .await
}
