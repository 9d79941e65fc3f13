//! Carries out whatever is due, until it is told to stop: what was started here, what others have left, and what waits for another
//! try. Forgets what is over for long, and says so when nobody can carry something out.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{drive::Left, error::OrchestrationError, log::Stored, orchestrator::Orchestrator};
use crate::limits;

impl Orchestrator {
    /// Carries out sagas until `stop` is cancelled, then ends as [`drain`](Self::drain) does. Run it once in every process that is to
    /// do sagas; a look that fails is logged, and the next one tries again.
    pub async fn run_until(&self, stop: CancellationToken) {
        let mut clean_at = Instant::now();
        // The first pause that ends, among those that are known.
        let mut next: Option<Instant> = None;
        let (pauses, mut paused) = tokio::sync::mpsc::channel(self.0.settings.at_once.max(1));
        while !stop.is_cancelled() {
            if let Err(error) = self.look(&pauses).await {
                tracing::warn!(target: "sagas", %error, "looking for sagas failed, and is tried again");
            }
            if Instant::now() >= clean_at {
                self.clean().await;
                clean_at = Instant::now() + limits::ORCHESTRATION_CLEAN_EVERY;
            }
            let poll = Instant::now() + self.jittered();
            let until = next.map_or(poll, |due| poll.min(due));
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.0.wake.notified() => {}
                Some(at) = paused.recv() => next = Some(next.map_or(at, |next| next.min(at))),
                () = tokio::time::sleep_until(until) => {}
            }
            next = next.filter(|next| *next > Instant::now());
        }
        self.drain().await;
    }

    /// Takes as many sagas as there is room for.
    async fn look(&self, pauses: &tokio::sync::mpsc::Sender<Instant>) -> Result<(), OrchestrationError> {
        let known: Vec<_> = self.0.defined.keys().cloned().collect();
        let room = u32::try_from(self.0.room.available_permits()).unwrap_or(u32::MAX);
        if known.is_empty() || room == 0 {
            return Ok(());
        }
        for id in self.0.log.due(&known, room).await? {
            let Ok(place) = self.0.room.clone().try_acquire_owned() else { return Ok(()) };
            let Some((turn, stored, asked)) = self.take(id).await? else { continue };
            let defined = self.defined(&stored.name, stored.version)?;
            let ended = self.carry_on(defined, turn, stored, asked);
            let pauses = pauses.clone();
            self.0.tasks.spawn(async move {
                let left = ended.await;
                drop(place);
                if let Ok(Some(Left::Pause(pause))) = left {
                    // A hint: without it the next look finds the saga.
                    let _ = pauses.try_send(Instant::now() + pause);
                }
            });
        }
        Ok(())
    }

    /// The pause between two looks, a third more or less, so that processes that start together do not stay together.
    fn jittered(&self) -> Duration {
        let poll = self.0.settings.poll;
        poll + poll.mul_f64(crate::pipeline::retry::jitter() / 3.0)
    }

    async fn clean(&self) {
        if let Err(error) = self.purge_once().await {
            tracing::warn!(target: "sagas", %error, "sagas that are over could not be forgotten, which is tried again");
        }
        let known: Vec<_> = self.0.defined.keys().cloned().collect();
        match self.0.log.stranded(&known, limits::ORCHESTRATION_STRANDED_AFTER).await {
            Ok(all) => {
                for (name, version) in all {
                    tracing::warn!(
                        target: "sagas",
                        name,
                        version,
                        "there are sagas that are due, and this process has no definition of them: give it to one that runs"
                    );
                }
            }
            Err(error) => tracing::warn!(target: "sagas", %error, "looking for stranded sagas failed"),
        }
    }

    /// Forgets sagas that are over for longer than they are kept, and the markers of their steps; how many there were.
    ///
    /// # Errors
    /// When the log does not answer. What a step keeps in a database that does not answer is tried again, and its saga stays.
    pub async fn purge_once(&self) -> Result<u32, OrchestrationError> {
        let mut gone = 0;
        let over = self.0.log.finished(limits::ORCHESTRATION_PURGE_COUNT, self.0.settings.kept_for).await?;
        for stored in over {
            // Only a process that knows its steps can forget what they keep.
            let Ok(defined) = self.defined(&stored.name, stored.version) else { continue };
            match self.forget(&defined, &stored).await {
                Ok(()) => gone += 1,
                Err(error) => {
                    tracing::warn!(target: "sagas", saga = %stored.id, name = stored.name, %error, "a saga could not be forgotten");
                }
            }
        }
        Ok(gone)
    }

    async fn forget(&self, defined: &super::definition::Defined, stored: &Stored) -> crate::Result<()> {
        for step in &defined.steps {
            step.handler.forget(stored.id, &step.name).await?;
        }
        Ok(self.0.log.purge(stored.id).await?)
    }
}
