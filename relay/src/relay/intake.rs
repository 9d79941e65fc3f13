//! Which rows are asked for, and what is done with those that come.
//!
//! One request at a time: the news of the outbox, or a key of which rows were left there. The two take turns, so that neither a key
//! with a million rows nor everybody else has to wait for the end of the other.

use std::time::Instant;

use super::{Session, reading::Asked};
use crate::{
    failpoint::{self, Point},
    lane::{Again, LeftOut, Mark, Pushed, RowId},
    source::{ReadRow, Want},
};

impl Session<'_> {
    /// Asks for the next rows when there is room for a batch.
    pub(super) fn ask_for_more(&mut self) {
        let settings = &self.relay.settings;
        let room = settings.buffer_rows_max.saturating_sub(self.lanes.rows());
        let bytes_max = settings.buffer_bytes_max.saturating_sub(self.lanes.bytes());
        let rows_max = room.min(settings.batch_rows);
        if bytes_max == 0 || rows_max < settings.batch_rows.min(settings.buffer_rows_max / 2).max(1) {
            return;
        }
        let again = self.lanes.again();
        if self.reading.asked() {
            if again.is_some() {
                self.reading.hurry();
            }
            return;
        }
        self.lanes.read_started();
        let want = Want { rows_max, bytes_max, known: Vec::new(), left_out: Vec::new() };
        match again.filter(|_| self.reading.may_ask_again()) {
            Some(Again { left_out, rows_max, bytes_max }) => {
                let (rows_max, bytes_max) = (rows_max.min(want.rows_max), bytes_max.min(want.bytes_max));
                self.reading.ask(Asked::Again(left_out), Want { rows_max, bytes_max, ..want });
            }
            None if self.relay.source.needs_known() => {
                let left_out = self.lanes.left_out().cloned().collect();
                self.reading.ask(Asked::News, Want { known: self.lanes.known_seqs(), left_out, ..want });
            }
            None => self.reading.ask(Asked::News, want),
        }
    }

    /// Takes what was asked for, and when.
    pub(super) fn take(&mut self, asked: Asked, at: Instant, rows: Vec<ReadRow>) {
        let last = rows.last().map(|row| row.id().seq);
        if let Asked::Again(left_out) = &asked {
            self.lanes.readmit(left_out);
        }
        rows.into_iter().for_each(|row| self.take_row(row, at));
        // A read that found nothing was the last one.
        if let (Asked::Again(left_out), Some(last)) = (asked, last) {
            self.lanes.leave_out(LeftOut { from: last.saturating_add(1), ..left_out });
        }
        self.lanes.read_finished();
        failpoint::reached(Point::AfterClaim);
    }

    fn take_row(&mut self, row: ReadRow, at: Instant) {
        let label = |sink, destination: &str| self.relay.meter.label(sink, destination);
        match row {
            ReadRow::Row(mut row, age) => {
                let routed = self.routes.labelled(&row.destination, label);
                let formed = routed.map_err(|reason| (None, reason)).and_then(|(route, label)| {
                    let formed = route.format.as_ref().map_or(Ok(()), |format| format.apply(&mut row));
                    formed.map(|()| (route.way, label)).map_err(|reason| (Some(route.way), reason))
                });
                match formed {
                    Ok((way, label)) => {
                        let since = age.and_then(|age| at.checked_sub(age));
                        if self.lanes.push_marked(row, way, Mark { since, label }) == Pushed::LeftOut {
                            self.complaints.left_out(self.relay.source.name(), Instant::now());
                        }
                    }
                    Err((way, reason)) => {
                        let (id, key) = (RowId::of(&row), row.aggregateid.as_deref());
                        let key = key.map(|id| (row.aggregatetype.as_str(), id));
                        self.complaints.parking("routes", &reason, Instant::now());
                        match way {
                            Some(way) => self.lanes.push_unfit(id, key, way, reason),
                            None => self.lanes.push_refused(id, key, reason),
                        };
                    }
                }
            }
            ReadRow::Late { id, key, reason } => {
                let key = key.as_ref().map(|(aggregatetype, id)| (aggregatetype.as_str(), id.as_str()));
                self.complaints.parking("source", &reason, Instant::now());
                self.lanes.push_late(id, key, reason);
            }
            ReadRow::Malformed { id, key, reason } => {
                let key = key.as_ref().map(|(aggregatetype, id)| (aggregatetype.as_str(), id.as_str()));
                self.complaints.parking("routes", &reason, Instant::now());
                self.lanes.push_refused(id, key, reason);
            }
        }
    }
}
