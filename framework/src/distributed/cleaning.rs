//! Looks after what is left lying: transactions that nobody decides, those that do not get over, and what is over for long.
//!
//! Called by recovery at the start and then every hour, in every process. Whatever is rolled back here was won by the same
//! compare-and-set as everywhere; what was decided to commit is committed, however old.

use super::{
    coordinator::Coordinator,
    core::{Decision, Outcome},
    ids::Gid,
    log::{Known, LogError, STALE},
    measures,
    operation::STAGE_BEGUN,
};
use crate::limits;

/// What one clean-up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Stale transactions that were rolled back: they are marked as cleaned up.
    pub stale: u32,
    /// Stale and incomplete transactions of which something is left: a human has to look, and they are tried again all the same.
    pub manual: u32,
    /// Incomplete transactions that are over now.
    pub completed: u32,
    /// Transactions that were over for longer than they are kept.
    pub purged: u32,
    /// Audit entries that were older than they are kept.
    pub audit_purged: u64,
}

impl Coordinator {
    /// One clean-up. Several processes may do this at once.
    ///
    /// # Errors
    /// When the log does not answer; what was done until then stays.
    pub async fn clean_up_once(&self) -> Result<Cleaned, LogError> {
        let (settings, mut cleaned) = (&self.0.settings, Cleaned::default());
        let count = limits::DISTRIBUTED_RECOVER_COUNT;
        for known in self.0.log.stale(count, settings.stale_after).await? {
            // Who decided in the meantime is right.
            let standing = self.0.log.decide(known.gid, Decision::Abort, &[], STALE).await?;
            if standing == Decision::Abort {
                cleaned.stale += 1;
                self.tell_stages(known.gid).await;
            }
            cleaned.manual += u32::from(self.finish(known, standing).await);
        }
        for known in self.0.log.incomplete(count, settings.incomplete_after).await? {
            let decision = match known.decision {
                Some(standing) => standing,
                None => self.0.log.decide(known.gid, Decision::Abort, &[], "incomplete for too long").await?,
            };
            match self.finish(known, decision).await {
                true => cleaned.manual += 1,
                false => cleaned.completed += 1,
            }
        }
        cleaned.purged = self.purge_once().await?;
        cleaned.audit_purged = self.0.log.purge_audit(settings.audit_kept_for).await?;
        Ok(cleaned)
    }

    /// Carries out what stands. True when something is left, which is told.
    async fn finish(&self, known: Known, decision: Decision) -> bool {
        // So often that what is left is marked as needing a human.
        let attempts = known.attempts.max(limits::DISTRIBUTED_ALERT_AFTER);
        let (outcome, left) = self.complete(Known { decision: Some(decision), attempts, ..known }).await;
        let result = match (outcome, left) {
            (_, true) => "left",
            (Outcome::Heuristic(_), false) => "heuristic",
            _ => "done",
        };
        metrics::counter!(measures::RECOVERY_ACTIONS, "action" => "clean_up", "result" => result)
            .increment(1);
        left
    }

    /// Tells about external stages that had begun in a transaction which nobody ended in time: nobody undoes them.
    pub(super) async fn tell_stages(&self, gid: Gid) {
        match self.0.log.show(gid).await {
            Ok(Some(found)) => {
                let begun = found.events.iter().filter(|event| event.event == STAGE_BEGUN);
                let begun: Vec<&str> = begun.filter_map(|event| event.data.as_deref()).collect();
                if !begun.is_empty() {
                    let what = format!(
                        "rolled back for its age with external stages that had begun: {}",
                        begun.join(", ")
                    );
                    self.0.alert(gid, &what);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(target: "transactions", %gid, %error, "whether external stages had begun is not known")
            }
        }
    }
}
