//! Looks after what is left lying: transactions that nobody decides, those that do not get over, and what is over for long.
//!
//! Runs beside recovery, at the start and then every hour, in every process. Whatever is rolled back here was won by the same
//! compare-and-set as everywhere; what was decided to commit is committed, however old.

use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{
    coordinator::Coordinator,
    core::Outcome,
    error::DistributedError,
    ids::Gid,
    log::{Known, LogError},
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
            let (outcome, left) = self.finish(known).await;
            // Who decided in the meantime is right.
            cleaned.stale += u32::from(!matches!(outcome, Outcome::Committed | Outcome::InDoubt));
            cleaned.manual += u32::from(left);
        }
        for known in self.0.log.incomplete(count, settings.incomplete_after).await? {
            match self.finish(known).await.1 {
                true => cleaned.manual += 1,
                false => cleaned.completed += 1,
            }
        }
        loop {
            let purged = self.purge_once().await?;
            cleaned.purged += purged;
            if purged == 0 {
                break;
            }
        }
        cleaned.audit_purged = self.0.log.purge_audit(settings.audit_kept_for).await?;
        Ok(cleaned)
    }

    /// Cleans up every hour and looks at the figures every half minute, until `stop` is cancelled.
    pub(super) async fn care_until(&self, stop: &CancellationToken) {
        let (mut cleaned, mut looked) = (None, None);
        loop {
            if is_due(&mut cleaned, self.0.settings.clean_every) {
                // Whatever it has not come to when it is stopped is found by the next one.
                let done = tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.clean_up_once() => done,
                };
                match done {
                    Ok(done) if done == Cleaned::default() => {}
                    Ok(done) => tracing::info!(target: "transactions", ?done, "cleaned up"),
                    Err(error) => {
                        tracing::warn!(target: "transactions", %error, "the clean-up failed, and is tried again");
                    }
                }
            }
            if is_due(&mut looked, limits::DISTRIBUTED_LOOK_EVERY)
                && let Err(error) = self.look_once().await
            {
                tracing::warn!(target: "transactions", %error, "the figures of the decision log are not known");
            }
            let pause = limits::DISTRIBUTED_LOOK_EVERY.min(self.0.settings.clean_every);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Removes some of what is over for longer than it is kept, the markers of its branches first. Returns how many transactions;
    /// there may be more until that is 0.
    ///
    /// # Errors
    /// When the log does not answer. A transaction stays as long as one of its markers does.
    pub async fn purge_once(&self) -> Result<u32, LogError> {
        let found = self.0.log.finished(limits::DISTRIBUTED_RECOVER_COUNT, self.0.settings.kept_for).await?;
        let removed = futures::stream::iter(found)
            .map(|known| async move { (known.gid, self.remove(&known).await) })
            .buffer_unordered(limits::DISTRIBUTED_PURGE_AT_ONCE)
            .collect::<Vec<_>>();
        let mut purged = 0;
        for (gid, removed) in removed.await {
            match removed {
                Ok(()) => purged += 1,
                Err(DistributedError::Log(error)) => return Err(error),
                Err(error) => tracing::warn!(target: "transactions", %gid, %error, "what is over is kept"),
            }
        }
        Ok(purged)
    }

    /// Carries out what stands, as recovery does: a last resource is asked before anything is rolled back. What is left is told.
    async fn finish(&self, known: Known) -> (Outcome, bool) {
        // So often that what is left is marked as needing a human.
        let attempts = known.attempts.max(limits::DISTRIBUTED_ALERT_AFTER);
        let (outcome, left) = self.complete(Known { attempts, ..known }).await;
        let result = match (outcome, left) {
            (_, true) => "left",
            (Outcome::Heuristic(_), false) => "heuristic",
            _ => "done",
        };
        metrics::counter!(measures::RECOVERY_ACTIONS, "action" => "clean_up", "result" => result)
            .increment(1);
        (outcome, left)
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

/// Whether something is to be done again that is done every so often; then it counts as done now.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}
