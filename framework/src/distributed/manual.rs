//! What people do with transactions: look, decide by hand, forget. Every decision by hand has a reason, and is written down first.
//!
//! Called by the command line and by whoever builds a page of it. By hand nobody can do what recovery could not: a decision is made by
//! the same compare-and-set, and the opposite of one that stands is refused.

use super::{
    access::{Action, Principal},
    book::{AuditEntry, LogFigures, TransactionDetail, TransactionEntry, TransactionFilter},
    coordinator::Coordinator,
    core::{BranchKind, Decision, Outcome, State},
    crash,
    error::DistributedError,
    ids::{BranchId, Gid},
    log::{Known, LogError},
    measures,
};
use crate::limits;

/// What a decision by hand came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What stands.
    pub decision: Decision,
    /// How it ended, as far as is known.
    pub outcome: Outcome,
    /// Whether branches are left, which recovery completes.
    pub pending: bool,
}

/// How much is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forget {
    /// A transaction that is over everywhere: its row and the markers of its branches.
    #[default]
    Finished,
    /// Also one that is not: it is decided to roll back unless it was decided, tried once more, and given up with what is left. It
    /// ends as a hazard, which stays in the log for its time. For branches whose database is gone for good.
    GiveUp,
}

impl Coordinator {
    /// The transactions that a filter picks.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn list(&self, filter: &TransactionFilter) -> Result<Vec<TransactionEntry>, LogError> {
        self.0.log.list(filter).await
    }

    /// One transaction with its branches and all that happened.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn show(&self, gid: Gid) -> Result<Option<TransactionDetail>, LogError> {
        self.0.log.show(gid).await
    }

    /// The transaction that has a name, or the last that had it.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn find(&self, name: &str) -> Result<Option<TransactionEntry>, LogError> {
        let filter = TransactionFilter { count: 1, ..TransactionFilter::named(name) };
        Ok(self.0.log.list(&filter).await?.into_iter().next())
    }

    /// How the log stands.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn figures(&self) -> Result<LogFigures, LogError> {
        self.0.log.figures().await
    }

    /// Who did or was refused what, the newest first: of one transaction by its name or id, or of all.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn audited(&self, of: Option<&str>, count: u32) -> Result<Vec<AuditEntry>, LogError> {
        self.0.log.audited(of, count).await
    }

    /// Decides a transaction that nobody decided, or carries out at once what was. To commit it every branch must be known to be
    /// prepared: that is so for named transactions that wait.
    ///
    /// # Errors
    /// [`DistributedError::Denied`], [`DistributedError::NoReason`], [`DistributedError::NotFound`],
    /// [`DistributedError::NotPrepared`], and when the opposite stands. [`DistributedError::InDoubt`] when the log did not answer.
    pub async fn resolve(
        &self,
        who: &Principal,
        gid: Gid,
        decision: Decision,
        reason: &str,
    ) -> Result<Resolved, DistributedError> {
        let entry = self.by_hand(who, Action::Resolve, gid, reason).await?;
        self.may_end(&entry, decision)?;
        self.end(&entry, decision, &format!("by hand, {who}: {reason}")).await
    }

    /// Whether [`Self::resolve`] would be refused now. Changes nothing, and returns the transaction as it is.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn may_resolve(
        &self,
        gid: Gid,
        decision: Decision,
    ) -> Result<TransactionEntry, DistributedError> {
        let entry = self.entry(gid).await?;
        self.may_end(&entry, decision)?;
        Ok(entry)
    }

    /// Removes what is kept of a transaction.
    ///
    /// # Errors
    /// [`DistributedError::Denied`], [`DistributedError::NoReason`], [`DistributedError::NotFound`],
    /// [`DistributedError::StillOpen`], and [`DistributedError::Branch`] when a marker could not be removed: it stays then.
    pub async fn forget(
        &self,
        who: &Principal,
        gid: Gid,
        how: Forget,
        reason: &str,
    ) -> Result<(), DistributedError> {
        let entry = self.by_hand(who, Action::Forget, gid, reason).await?;
        if entry.finished_at.is_some() {
            let known = self.known(gid).await?;
            self.remove(&known).await?;
            return Ok(());
        }
        may_be_forgotten(&entry, how)?;
        let why = format!("given up by hand, {who}: {reason}");
        let standing = match entry.decision {
            Some(standing) => standing,
            // A last resource that does not answer is one of those that are given up.
            None => match self.asked_last(gid, &why).await {
                Ok(Some(standing)) => standing,
                _ => self.0.log.decide(gid, Decision::Abort, &[], &why).await?,
            },
        };
        let entry = TransactionEntry { decision: Some(standing), ..entry };
        let ended = self.end(&entry, standing, &why).await?;
        if ended.pending && self.0.log.abandon(gid, &why).await? {
            self.0.alert(gid, &why);
            self.note(gid, "given up", &why).await;
        }
        Ok(())
    }

    /// Whether [`Self::forget`] would be refused now. Changes nothing, and returns the transaction as it is.
    ///
    /// # Errors
    /// As [`Self::forget`].
    pub async fn may_forget(&self, gid: Gid, how: Forget) -> Result<TransactionEntry, DistributedError> {
        let entry = self.entry(gid).await?;
        may_be_forgotten(&entry, how)?;
        Ok(entry)
    }

    async fn entry(&self, gid: Gid) -> Result<TransactionEntry, DistributedError> {
        let found = self.0.log.show(gid).await?.ok_or_else(|| DistributedError::NotFound(gid.to_string()))?;
        Ok(found.transaction)
    }

    /// Removes a transaction that is over, and the markers of its branches first: as long as one of these stays, it does.
    pub(super) async fn remove(&self, known: &Known) -> Result<(), DistributedError> {
        for (ordinal, (record, _)) in (0..).zip(&known.branches) {
            let branch = BranchId { coordinator: self.0.id, gid: known.gid, ordinal };
            let unknown = || DistributedError::UnknownResource {
                name: record.name.clone(),
                resource: record.resource.clone(),
            };
            let resource = self.0.resources.get(&record.resource).ok_or_else(unknown)?;
            let forgotten = resource.forget(&branch).await;
            forgotten.map_err(|cause| DistributedError::Branch { name: record.name.clone(), cause })?;
            crash::point("c14");
        }
        crash::point("c14-forgotten");
        Ok(self.0.log.purge(known.gid).await?)
    }

    /// What everything that is done by hand begins with: the right, the reason, the transaction, and the entry in the audit.
    async fn by_hand(
        &self,
        who: &Principal,
        action: Action,
        gid: Gid,
        reason: &str,
    ) -> Result<TransactionEntry, DistributedError> {
        let reason = reason.trim();
        if !(1..=limits::REASON_BYTES_MAX).contains(&reason.len()) {
            return Err(DistributedError::NoReason { action });
        }
        let found = self.0.log.show(gid).await?;
        let entry = found.map(|found| found.transaction);
        let name = entry.as_ref().map_or_else(|| gid.to_string(), called);
        self.allowed(who, action, &name, Some(gid)).await?;
        let entry = entry.ok_or(DistributedError::NotFound(name.clone()))?;
        self.0.log.audit(&written(Some(gid), &name, who, action, "allowed", reason)).await?;
        Ok(entry)
    }

    /// Asks the policy; what it denies is written down.
    pub(super) async fn allowed(
        &self,
        who: &Principal,
        action: Action,
        name: &str,
        gid: Option<Gid>,
    ) -> Result<(), DistributedError> {
        let Err(denied) = self.0.settings.access.check(who, action, name) else { return Ok(()) };
        metrics::counter!(measures::DENIED, "action" => action.to_string()).increment(1);
        let entry = written(gid, name, who, action, "denied", &denied.reason);
        // It is denied all the same; the log on the target `transactions` has it in any case.
        if let Err(error) = self.0.log.audit(&entry).await {
            tracing::error!(target: "transactions", %denied, %error, "a denial could not be written down");
        }
        Err(denied.into())
    }

    /// Whether somebody outside may decide so: to commit, everybody must have promised to.
    pub(super) fn may_decide(
        &self,
        entry: &TransactionEntry,
        decision: Decision,
    ) -> Result<(), DistributedError> {
        let prepared = entry.prepared_at.is_some() && !entry.home;
        if decision == Decision::Commit && !prepared {
            return Err(DistributedError::NotPrepared { what: called(entry), status: entry.status.clone() });
        }
        Ok(())
    }

    /// The same for one that may be decided already. What is over without a decision has rolled back.
    fn may_end(&self, entry: &TransactionEntry, decision: Decision) -> Result<(), DistributedError> {
        let over = entry.finished_at.is_some().then_some(Decision::Abort);
        match entry.decision.or(over) {
            None => self.may_decide(entry, decision),
            Some(standing) if standing == decision => Ok(()),
            Some(standing) => Err(opposite(called(entry), standing, entry.decision_reason.clone())),
        }
    }

    /// Decides, unless it is decided, and carries out what stands.
    pub(super) async fn end(
        &self,
        entry: &TransactionEntry,
        decision: Decision,
        reason: &str,
    ) -> Result<Resolved, DistributedError> {
        let standing = match entry.decision {
            Some(standing) => standing,
            None => self.decided(entry, decision, reason).await?,
        };
        if standing != decision {
            let now = self.0.log.show(entry.gid).await?.map(|found| found.transaction);
            return Err(opposite(called(entry), standing, now.and_then(|now| now.decision_reason)));
        }
        let known = self.known(entry.gid).await?;
        if known.finished {
            return Ok(Resolved { decision: standing, outcome: finished(standing, &known), pending: false });
        }
        let (outcome, pending) = self.completed(known, None).await?;
        Ok(Resolved { decision: standing, outcome, pending })
    }

    /// Makes the decision, or finds one.
    async fn decided(
        &self,
        entry: &TransactionEntry,
        decision: Decision,
        reason: &str,
    ) -> Result<Decision, DistributedError> {
        // What waits under a name has no last resource.
        if decision == Decision::Abort
            && entry.prepared_at.is_none()
            && let Some(standing) = self.asked_last(entry.gid, reason).await?
        {
            return Ok(standing);
        }
        let decided = self.0.log.decide(entry.gid, decision, &[], reason).await;
        decided.map_err(|error| DistributedError::InDoubt { gid: entry.gid, reason: error.to_string() })
    }

    /// What stands once the last resource was asked: it may have committed, and nobody but it knows. `None`: there is none, and nothing
    /// is decided.
    async fn asked_last(&self, gid: Gid, reason: &str) -> Result<Option<Decision>, DistributedError> {
        let known = self.known(gid).await?;
        if known.finished {
            return Ok(known.decision.or(Some(Decision::Abort)));
        }
        if known.decision.is_some() || !has_last(&known) {
            return Ok(known.decision);
        }
        self.completed(known, Some(reason.to_owned())).await?;
        let silent = "the last resource does not answer, and only it knows whether it has committed: try again when it does, or give \
                      the transaction up";
        match self.known(gid).await?.decision {
            None => Err(DistributedError::InDoubt { gid, reason: silent.to_owned() }),
            standing => Ok(standing),
        }
    }

    /// In a task of its own: whoever stops waiting interrupts nothing.
    async fn completed(
        &self,
        known: Known,
        reason: Option<String>,
    ) -> Result<(Outcome, bool), DistributedError> {
        let (coordinator, gid) = (self.clone(), known.gid);
        let ended = self.0.tasks.spawn(async move { coordinator.complete_for(known, reason).await }).await;
        ended.map_err(|error| DistributedError::InDoubt { gid, reason: error.to_string() })
    }

    pub(super) async fn known(&self, gid: Gid) -> Result<Known, DistributedError> {
        self.0.log.load(gid).await?.ok_or_else(|| DistributedError::NotFound(gid.to_string()))
    }

    /// Writes down that something happened; what cannot be written is only logged.
    pub(super) async fn note(&self, gid: Gid, event: &str, data: &str) {
        if let Err(error) = self.0.log.note(gid, event, data).await {
            tracing::warn!(target: "transactions", %gid, event, data, %error, "an event could not be written down");
        }
    }
}

/// The name of a transaction, or its id.
pub(super) fn called(entry: &TransactionEntry) -> String {
    entry.name.clone().unwrap_or_else(|| entry.gid.to_string())
}

/// What is said to who wants the opposite of what stands.
fn opposite(what: String, standing: Decision, reason: Option<String>) -> DistributedError {
    match standing {
        Decision::Commit => DistributedError::AlreadyCommitted { what },
        Decision::Abort => {
            let reason = reason.unwrap_or_else(|| "asked for".to_owned());
            DistributedError::AlreadyRolledBack { what, reason }
        }
    }
}

fn has_last(known: &Known) -> bool {
    known.branches.iter().any(|(record, _)| record.kind == BranchKind::Last)
}

fn may_be_forgotten(entry: &TransactionEntry, how: Forget) -> Result<(), DistributedError> {
    if how == Forget::Finished && entry.finished_at.is_none() {
        return Err(DistributedError::StillOpen { what: called(entry), status: entry.status.clone() });
    }
    Ok(())
}

/// How one ended that is over.
fn finished(decision: Decision, known: &Known) -> Outcome {
    let branches: Vec<_> = known.branches.iter().map(|(record, state)| (record.kind, *state)).collect();
    State::recovered(&branches, known.home, Some(decision)).outcome()
}

fn written(
    gid: Option<Gid>,
    name: &str,
    who: &Principal,
    action: Action,
    outcome: &str,
    reason: &str,
) -> AuditEntry {
    let cut = |text: &str| text.chars().take(limits::NAME_BYTES_MAX).collect();
    AuditEntry {
        at: None,
        gid,
        name: cut(name),
        principal: cut(who.name()),
        action: action.to_string(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
    }
}
