//! What happens to rows whose answer has come: confirmed ones are deleted or archived, hopeless ones parked. And when
//! to look whether an operator released some of those, and whether some have been archived for long enough.

use std::time::Instant;

use super::Session;
use crate::{lane::ParkState, parked::fingerprint, source::OldTransaction};

impl Session<'_> {
    /// Has confirmed rows deleted or archived and hopeless ones parked: when a batch is full, or has waited long enough, or `all`.
    /// Says whether anything was handed over.
    pub(super) fn retire(&mut self, all: bool) -> bool {
        let mut handed_over = false;
        let settings = &self.relay.settings;
        // Who has lost the source cannot archive: the rows stay, and the new owner publishes them once more.
        if self.lanes.deletes_waiting() == 0 || (self.fenced && self.deleting.archives()) {
            self.unretired_since = None;
        } else {
            let since = *self.unretired_since.get_or_insert_with(Instant::now);
            let waited = all || self.lanes.in_flight() == 0 || since.elapsed() >= settings.delete_wait;
            while self.deleting.has_room()
                && self.lanes.deletes_waiting() > 0
                && (waited || self.lanes.deletes_waiting() >= settings.delete_rows_max)
            {
                self.deleting.retire(self.lanes.take_deletes(settings.delete_rows_max));
                self.unretired_since = None;
                handed_over = true;
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
            handed_over = true;
        }
        handed_over
    }

    /// Looks now and then whether an operator released parked rows, whether some have been archived for long enough, and whether
    /// somebody holds back vacuum.
    pub(super) fn look(&mut self) {
        if self.deleting.has_room() && self.watch.due(Instant::now()) {
            self.deleting.look();
        }
        if self.deleting.has_room() && self.horizon.due(Instant::now()) {
            self.deleting.oldest();
        }
        if self.deleting.has_room()
            && let Some((keep, after)) = self.keeping.due(Instant::now())
        {
            self.deleting.expire(keep, after);
        }
    }

    /// Says who keeps deleted rows on their pages, when that has lasted for too long.
    pub(super) fn complain_about(&mut self, oldest: Option<OldTransaction>) {
        if let Some(OldTransaction { age, who }) = self.horizon.seen(oldest, Instant::now()) {
            tracing::warn!(
                source = self.relay.source.name(),
                age_s = age.as_secs(),
                who,
                "a transaction has been open for too long: no deleted row leaves the outbox's pages until it ends"
            );
        }
    }
}
