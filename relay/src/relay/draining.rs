//! The end of a session: the last answers, and the last deletes.

use std::time::Instant;

use tokio::time::timeout;

use super::{RelayError, Session, deleting::Done};

impl Session<'_> {
    /// Takes the last answers and deletes what they confirm, within a bound. What is unanswered then is published again by
    /// whoever works on the source next.
    pub(super) async fn drain(&mut self) -> Result<(), RelayError> {
        self.reading.stop();
        let bound = self.relay.settings.drain;
        let sinks = std::mem::take(&mut self.sinks);
        let closing = sinks.into_iter().map(|sink| timeout(bound, sink.publisher.close()));
        let now = Instant::now();
        for (sink, outcomes) in futures::future::join_all(closing).await.into_iter().enumerate() {
            for (token, outcome) in outcomes.into_iter().flatten() {
                if let Some(mark) = self.lanes.mark(token) {
                    self.relay.meter.settled(sink, mark, &outcome, now);
                }
                self.lanes.settle(token, outcome, now);
            }
        }
        let flushed = timeout(bound, async {
            loop {
                self.retire(true);
                if self.deleting.idle() {
                    return Ok::<_, RelayError>(());
                }
                match self.deleting.done().await {
                    Ok(Done::Gone(rows)) => self.lanes.gone(rows),
                    Ok(Done::Looked(_) | Done::Oldest(_) | Done::Expired(_)) => {}
                    Err(error) if error.is_fenced() => self.fenced = true,
                    Err(error) => return Err(error),
                }
            }
        });
        match flushed.await {
            Ok(flushed) => flushed?,
            Err(_) => tracing::warn!(
                source = self.relay.source.name(),
                "stopped before every confirmed row was deleted: those rows will be published again"
            ),
        }
        let left = self.lanes.in_flight();
        if left > 0 {
            tracing::warn!(
                source = self.relay.source.name(),
                rows = left,
                "stopped without an answer for these rows"
            );
        }
        self.relay.stats.send_replace(self.lanes.stats());
        Ok(())
    }
}
