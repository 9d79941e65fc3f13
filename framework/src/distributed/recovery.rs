//! Completes what others left: at the start, and then all the time, in every process that shares the log.
//!
//! By the log: transactions that are due are taken, and what stands is carried out; an undecided one is aborted by winning the same
//! compare-and-set that its coordinator would have to win. By the databases: prepared branches that the log knows to be over, or
//! does not know at all, follow what it says. Branches of other logs and epochs are left alone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    coordinator::Coordinator,
    core::{BranchKind, Decision, Input, Outcome, Phase, State},
    ids::{BranchId, ResourceId},
    label::Label,
    log::{Known, LogError},
    machine::{Machine, Part},
    measures,
    participant::{Ack, Resource, RmError, TransactionParticipant, Vote},
    status::Seen,
    watch::Watch,
};
use crate::limits;

/// What one round of recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Transactions that were carried to their end as committed.
    pub committed: u32,
    /// Transactions that were carried to their end as rolled back.
    pub aborted: u32,
    /// Transactions that ended in another way than was decided. Each was reported.
    pub heuristic: u32,
    /// Transactions of which something is left: they are tried again.
    pub left: u32,
    /// Prepared branches that nobody but their database remembered.
    pub orphans: u32,
    /// Databases whose branches could not be listed; nothing is known of them.
    pub failed_scans: Vec<(ResourceId, String)>,
}

impl Coordinator {
    /// Recovers until `stop` is cancelled, cleans up every hour, and looks at the figures. Run it once in every process; a failing
    /// round is logged and the next one tries again.
    pub async fn recover_until(&self, stop: CancellationToken) {
        // Side by side: a clean-up that takes long holds up nobody's recovery.
        futures::future::join(self.recover_again(&stop), self.care_until(&stop)).await;
    }

    async fn recover_again(&self, stop: &CancellationToken) {
        loop {
            match self.recover_once().await {
                Ok(found) if found == Recovered::default() => {}
                Ok(found) => tracing::info!(target: "transactions", ?found, "recovery"),
                Err(error) => {
                    tracing::warn!(target: "transactions", %error, "recovery failed, and tries again")
                }
            }
            let every = self.0.settings.recover_every;
            // A third more or less, so that processes that start together do not stay together.
            let jitter = every.mul_f64(f64::from(uuid::Uuid::now_v7().as_bytes()[15]) / 255.0 / 3.0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every + jitter) => {}
            }
        }
    }

    /// One round. Several processes may do this at once.
    ///
    /// # Errors
    /// When the log does not answer; nothing is lost by that.
    pub async fn recover_once(&self) -> Result<Recovered, LogError> {
        let mut found = Recovered::default();
        let due = self.0.log.claim(limits::DISTRIBUTED_RECOVER_COUNT, self.0.settings.lease).await?;
        for known in due {
            let (outcome, left) = self.complete(known).await;
            let action = if outcome == Outcome::Committed { "commit" } else { "rollback" };
            match (outcome, left) {
                (Outcome::Heuristic(_), false) => {
                    found.heuristic += 1;
                    count(action, "heuristic");
                }
                (Outcome::Committed, false) => {
                    found.committed += 1;
                    count(action, "done");
                }
                (Outcome::Aborted, false) => {
                    found.aborted += 1;
                    count(action, "done");
                }
                _ => {
                    found.left += 1;
                    count(action, "left");
                }
            }
        }
        for (id, resource) in &self.0.resources {
            let looked = tokio::time::timeout(limits::CALL_TIMEOUT, resource.prepared(self.0.id)).await;
            match looked.unwrap_or_else(|_| Err(RmError::Unknown("no answer in time".to_owned()))) {
                // A failed look is not an empty one: what is there stays until somebody can look.
                Err(error) => {
                    count("scan", "failed");
                    found.failed_scans.push((id.clone(), error.to_string()));
                }
                Ok(branches) => {
                    for branch in branches {
                        found.orphans += u32::from(self.adopt(resource, &branch).await?);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Carries out what stands. Returns how it ended, and whether something is left.
    pub(super) async fn complete(&self, known: Known) -> (Outcome, bool) {
        self.complete_for(known, None).await
    }

    /// The same; one that nobody decided is rolled back for a reason of somebody outside.
    pub(super) async fn complete_for(&self, known: Known, reason: Option<String>) -> (Outcome, bool) {
        let stale = known.decision.is_none() && known.age >= self.0.settings.stale_after;
        let kinds: Vec<_> = known.branches.iter().map(|(record, state)| (record.kind, *state)).collect();
        let parts = known.branches.into_iter().map(|(record, _)| {
            let resource = self.0.resources.get(&record.resource).cloned();
            Part {
                participant: Arc::new(ByName { id: record.resource.clone(), kind: record.kind, resource }),
                record,
            }
        });
        let core = State::recovered(&kinds, known.home, known.decision);
        let parts: Vec<Part> = parts.collect();
        let records = parts.iter().map(|part| part.record.clone());
        let label = Label::default();
        let mut machine = Machine {
            watch: Watch::new(known.gid, &label, records, self.0.settings.slow_after),
            shared: Arc::clone(&self.0),
            gid: known.gid,
            seen: Arc::new(Mutex::new(Seen::new(core.clone()))),
            core,
            said: vec![None; kinds.len()],
            parts,
            home: None,
            cause: None,
            reason,
            attempts: Some(known.attempts),
            label,
            deadline: self.0.settings.deadline,
            stale,
            needs_help: false,
        };
        // Nothing that recovery asks for is refused.
        let span = tracing::debug_span!(target: "transactions", "dtx.recover", txn = %machine.gid);
        let _ = machine.drive(Input::Recover).instrument(span).await;
        let left = machine.core.pending().next().is_some();
        if stale && machine.core.decision == Some(Decision::Abort) {
            self.tell_stages(machine.gid).await;
        }
        let first_help = machine.needs_help && known.attempts == 0;
        if left && (first_help || known.attempts == limits::DISTRIBUTED_ALERT_AFTER) {
            self.0.alert(known.gid, machine.cause.as_deref().unwrap_or("recovery cannot complete it"));
        }
        match machine.core.phase {
            Phase::Ended(outcome) => (outcome, left),
            _ => (Outcome::InDoubt, true),
        }
    }

    /// Ends a prepared branch that the log knows to be over, or does not know. Whoever is still in the log as open has an owner.
    async fn adopt(&self, found_by: &Arc<dyn Resource>, branch: &BranchId) -> Result<bool, LogError> {
        // MariaDB shows what is prepared in the whole server, and the marker of a branch is in its own database.
        let mut resource = found_by;
        let decision = match self.0.log.load(branch.gid).await? {
            Some(known) if !known.finished => return Ok(false),
            Some(known) => {
                let record = known.branches.get(usize::from(branch.ordinal)).map(|(record, _)| record);
                let own = record.and_then(|record| self.0.resources.get(&record.resource));
                resource = own.unwrap_or(found_by);
                known.decision.unwrap_or(Decision::Abort)
            }
            // Who takes part is written down before anybody is asked to prepare.
            None => Decision::Abort,
        };
        let bound: Duration = self.0.settings.timeouts.abort;
        let ended = tokio::time::timeout(bound, resource.finish(branch, decision)).await;
        let ended = ended.unwrap_or_else(|_| Err(RmError::Unknown("no answer in time".to_owned())));
        match ended {
            Ok(Ack::Done) => {
                count("orphan", "done");
                tracing::warn!(target: "transactions", %branch, ?decision, "an orphan was ended")
            }
            Ok(Ack::Heuristic(heuristic)) => {
                count("orphan", "heuristic");
                self.0.alert(branch.gid, &format!("orphan {branch} had ended by hand: {heuristic:?}"));
            }
            Err(error) => {
                count("orphan", "left");
                tracing::warn!(target: "transactions", %branch, %error, "an orphan could not be ended");
                if matches!(error, RmError::Config(_) | RmError::Permanent(_)) && self.0.is_news(branch) {
                    self.0.alert(branch.gid, &format!("orphan {branch}: {error}"));
                }
            }
        }
        Ok(true)
    }
}

fn count(action: &'static str, result: &'static str) {
    metrics::counter!(measures::RECOVERY_ACTIONS, "action" => action, "result" => result).increment(1);
}

/// A branch that is known by its name only.
struct ByName {
    id: ResourceId,
    kind: BranchKind,
    resource: Option<Arc<dyn Resource>>,
}

impl ByName {
    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        match &self.resource {
            Some(resource) => resource.finish(branch, decision).await,
            None => Err(RmError::Retryable(format!(
                "resource {} is not known here: give it to Coordinator::connect, or let another process recover it",
                self.id
            ))),
        }
    }
}

#[async_trait]
impl TransactionParticipant for ByName {
    fn resource_id(&self) -> &ResourceId {
        &self.id
    }

    fn resource_type(&self) -> &'static str {
        "recovered"
    }

    fn kind(&self) -> BranchKind {
        self.kind
    }

    async fn begin(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    async fn prepare(&self, _: &BranchId) -> Result<Vote, RmError> {
        Ok(Vote::No { reason: "recovery prepares nothing".to_owned() })
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.finish(branch, Decision::Commit).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.finish(branch, Decision::Abort).await
    }
}
