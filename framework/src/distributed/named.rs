//! Named transactions: prepared by one process, and committed or rolled back by any that knows the name.
//!
//! The name leads to the transaction in the decision log, so nothing but the log has to survive in between. Both ways to end it are
//! the same compare-and-set as everywhere: of a commit and a rollback that meet, one wins and the other is told so.

use std::{future::Future, time::Duration};

use super::{
    access::{Action, Principal},
    book::TransactionEntry,
    coordinator::Coordinator,
    core::{Decision, Outcome},
    error::DistributedError,
    ids::Gid,
    label::TransactionName,
    manual::{Resolved, called},
    unit::DistributedUnitOfWork,
};
use crate::error::Error;

/// Named transactions, in the name of somebody. Cheap to clone.
///
/// ```no_run
/// # async fn doc(coordinator: barid::distributed::Coordinator, pool: sqlx::SqlitePool) -> barid::Result<()> {
/// use barid::distributed::{DistributedUnitOfWork, Principal};
/// let transactions = coordinator.named(Principal::new("onboarding"));
/// let unit = DistributedUnitOfWork::new(&coordinator);
/// // unit.register_participant("users", users.branch())?; ...
/// transactions.begin_distributed("onboard-4711", unit, || async { Ok(()) }).await?;
/// // Here, or in another process, within a day:
/// transactions.commit_distributed("onboard-4711").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct NamedTransactions {
    pub(super) coordinator: Coordinator,
    pub(super) who: Principal,
    wait: Duration,
}

impl Coordinator {
    /// Named transactions, in the name of `who`: the access policy is asked for it, and it is written down.
    #[must_use]
    pub fn named(&self, who: Principal) -> NamedTransactions {
        NamedTransactions { coordinator: self.clone(), who, wait: self.0.settings.stale_after }
    }
}

impl NamedTransactions {
    /// How long what is begun from now on may wait for its end before it is rolled back. Prepared branches hold their locks, and
    /// keep their databases from cleaning up, for as long. Default: [`Settings::stale_after`](super::Settings::stale_after).
    #[must_use]
    pub fn waiting_for(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Does `work` in the branches of `unit`, which has not begun, and leaves them prepared under `name`. Nothing of it is to be seen
    /// until somebody commits it; when nobody does in time, it is rolled back.
    ///
    /// After an error it is rolled back, and the name is free again once every branch has confirmed that. When the caller stops
    /// waiting, it is rolled back or waits.
    ///
    /// # Errors
    /// What `work` says, as it is. Otherwise a [`DistributedError`], to be found with [`Error::find`]:
    /// [`BadName`](DistributedError::BadName), [`NameInUse`](DistributedError::NameInUse),
    /// [`NameUsed`](DistributedError::NameUsed), [`Denied`](DistributedError::Denied),
    /// [`Unsupported`](DistributedError::Unsupported) for what cannot be prepared, and what
    /// [`DistributedUnitOfWork::begin`] and [`DistributedUnitOfWork::prepare_all`] say.
    pub async fn begin_distributed<T, Fut>(
        &self,
        name: &str,
        mut unit: DistributedUnitOfWork,
        work: impl FnOnce() -> Fut,
    ) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        let name = TransactionName::new(name)?;
        unit.name_it(&name, &self.who)?;
        let gid = unit.transaction_id();
        if let Err(error) = unit.begin().await {
            return Err(self.why_not(&name, gid, error).await.into());
        }
        let value = unit.worked(work).await?;
        unit.keep_prepared(self.wait).await?;
        Ok(value)
    }

    /// Commits what was prepared under `name`. Once more is the same as once.
    ///
    /// # Errors
    /// [`DistributedError::AlreadyRolledBack`] when it was, by whomever; [`DistributedError::NotPrepared`],
    /// [`DistributedError::NotFound`], [`DistributedError::Denied`]. [`DistributedError::InDoubt`] when the log did not answer: ask
    /// again. [`DistributedError::HeuristicMixed`] when a branch had been ended by hand.
    pub async fn commit_distributed(&self, name: &str) -> Result<Resolved, DistributedError> {
        let entry = self.look(name, Action::Commit).await?;
        if entry.decision.is_none() {
            self.coordinator.may_decide(&entry, Decision::Commit)?;
        }
        self.end(&entry, Decision::Commit).await
    }

    /// Rolls back what was begun under `name`, prepared or not. Once more is the same as once.
    ///
    /// # Errors
    /// [`DistributedError::AlreadyCommitted`] when it was; nothing is undone then, and nothing that goes with it may be. Otherwise as
    /// [`Self::commit_distributed`].
    pub async fn rollback_distributed(&self, name: &str) -> Result<Resolved, DistributedError> {
        let entry = self.look(name, Action::Rollback).await?;
        self.end(&entry, Decision::Abort).await
    }

    async fn look(&self, name: &str, action: Action) -> Result<TransactionEntry, DistributedError> {
        let name = TransactionName::new(name)?;
        self.coordinator.allowed(&self.who, action, name.as_str(), None).await?;
        let found = self.coordinator.find(name.as_str()).await?;
        found.ok_or_else(|| DistributedError::NotFound(name.to_string()))
    }

    pub(super) async fn end(
        &self,
        entry: &TransactionEntry,
        decision: Decision,
    ) -> Result<Resolved, DistributedError> {
        let reason = format!("asked for by {}", self.who);
        let resolved = self.coordinator.end(entry, decision, &reason).await?;
        if let Outcome::Heuristic(heuristic) = resolved.outcome {
            let reason = format!("a branch of {} had ended in another way", called(entry));
            let (gid, decision) = (entry.gid, resolved.decision);
            return Err(DistributedError::HeuristicMixed { gid, heuristic, decision, reason });
        }
        Ok(resolved)
    }

    /// Why the log did not take it: somebody else has the name, or had it until lately.
    async fn why_not(&self, name: &TransactionName, gid: Gid, error: DistributedError) -> DistributedError {
        if !matches!(error, DistributedError::Aborted { .. }) {
            return error;
        }
        match self.coordinator.find(name.as_str()).await {
            Ok(Some(other)) if other.gid != gid => {
                let (name, gid, status) = (name.to_string(), other.gid, other.status);
                match (other.finished_at, other.prepared_at) {
                    (None, _) => DistributedError::NameInUse { name, gid, status },
                    (Some(_), Some(_)) => DistributedError::NameUsed { name, gid, status },
                    _ => error,
                }
            }
            // What the log said first is what there is to say.
            _ => error,
        }
    }
}
