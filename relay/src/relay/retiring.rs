//! What happens to rows whose answer has come: confirmed ones are deleted, hopeless ones parked; and the end of a session, when
//! that is done for all that is left.

use std::time::Instant;

use tokio::time::timeout;

use super::{RelayError, Session, deleting::Done};
use crate::{lane::ParkState, parked::fingerprint};

impl Session<'_> {
    /// Has confirmed rows deleted and hopeless ones parked: when a batch is full, or has waited long enough, or `all`.
    pub(super) fn retire(&mut self, all: bool) {
        let settings = &self.relay.settings;
        if self.lanes.deletes_waiting() == 0 {
            self.unretired_since = None;
        } else {
            let since = *self.unretired_since.get_or_insert_with(Instant::now);
            let waited = all || self.lanes.in_flight() == 0 || since.elapsed() >= settings.delete_wait;
            while self.deleting.has_room()
                && self.lanes.deletes_waiting() > 0
                && (waited || self.lanes.deletes_waiting() >= settings.delete_rows_max)
            {
                self.deleting.delete(self.lanes.take_deletes(settings.delete_rows_max));
                self.unretired_since = None;
            }
        }
        while !self.fenced && self.deleting.has_room() && self.lanes.parks_waiting() > 0 {
            let mut parks = self.lanes.take_parks(settings.delete_rows_max);
            for park in parks.iter_mut().filter(|park| park.state != ParkState::Behind) {
                let place = park.sink.map_or("routes", |sink| &self.relay.sinks[sink].name);
                park.fingerprint = Some(fingerprint(place, &park.reason));
            }
            self.deleting.park(parks);
            self.watch.parked(Instant::now());
        }
    }

    /// Looks whether an operator released parked rows, now and then.
    pub(super) fn look(&mut self) {
        if self.deleting.has_room() && self.watch.due(Instant::now()) {
            self.deleting.look();
        }
    }

    /// Takes the last answers and deletes what they confirm, within a bound. What is unanswered then is published again by
    /// whoever works on the source next.
    pub(super) async fn drain(&mut self) -> Result<(), RelayError> {
        self.reading.stop();
        let bound = self.relay.settings.drain;
        let sinks = std::mem::take(&mut self.sinks);
        let closing = sinks.into_iter().map(|sink| timeout(bound, sink.publisher.close()));
        let now = Instant::now();
        for outcomes in futures::future::join_all(closing).await.into_iter().flatten() {
            for (token, outcome) in outcomes {
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
                    Ok(Done::Looked(_)) => {}
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
