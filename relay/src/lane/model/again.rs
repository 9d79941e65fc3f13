//! Rows that are left in the outbox, and keys that are read again.

use super::*;

/// What is kept of a key that waits: less than its window.
pub(super) const SHARE: Share = Share { rows_max: 4, bytes_max: 35 };

/// A read of one key.
pub(super) struct ReadingAgain {
    left_out: LeftOut,
    /// What was there when it began.
    shows: Vec<usize>,
}

impl Model {
    pub(super) fn is_known(&self, at: usize) -> bool {
        let (seq, id) = (i64::try_from(at).unwrap(), Uuid::from_u128(at as u128));
        self.lanes.known.contains(&RowId { seq, id })
    }

    pub(super) fn is_left_out(&self, at: usize) -> bool {
        self.rows[at].is == Is::Queued && !self.is_known(at)
    }

    /// Whether earlier rows of its key were left out, or there is no room.
    pub(super) fn may_be_left_out(&self, at: usize) -> bool {
        let (mut kept, mut behind) = (0, false);
        let key = self.rows[at].key.filter(|_| self.order != Order::None);
        for (other, row) in self.rows.iter().enumerate() {
            if key.is_some() && row.key == key && other != at {
                kept += usize::from(row.is != Is::Done && self.is_known(other));
                behind |= other < at && self.is_left_out(other);
            }
        }
        let marked = self.lanes.left_out().any(|left_out| Some(&left_out.aggregateid) == name(key).as_ref());
        behind || marked || kept >= SHARE.rows_max || kept * 10 >= SHARE.bytes_max
    }

    /// Begins to read a key again, or ends it.
    pub(super) fn read_again(&mut self) {
        if self.again.is_some() {
            return self.end_reading_again();
        }
        let Some(again) = self.lanes.again().filter(|_| self.reading.is_none()) else { return };
        assert!(again.rows_max > 0 && again.rows_max <= SHARE.rows_max && again.bytes_max > 0);
        self.lanes.read_started();
        let there = |(at, row): &(usize, &Known)| {
            let seq = i64::try_from(*at).unwrap();
            let gone = self.deleted.contains(&seq) || self.parked.contains_key(&seq);
            name(row.key).as_ref() == Some(&again.left_out.aggregateid) && seq >= again.left_out.from && !gone
        };
        let shows = self.rows.iter().enumerate().filter(there).map(|(at, _)| at).take(again.rows_max);
        self.again = Some(ReadingAgain { shows: shows.collect(), left_out: again.left_out });
    }

    pub(super) fn end_reading_again(&mut self) {
        let Some(ReadingAgain { left_out, shows }) = self.again.take() else { return };
        self.lanes.readmit(&left_out);
        for at in &shows {
            self.show(*at);
        }
        if let Some(last) = shows.last() {
            self.lanes.leave_out(LeftOut { from: i64::try_from(last + 1).unwrap(), ..left_out });
        }
        self.lanes.read_finished();
    }

    /// A key that waits has no more than its share, and nothing is out of memory and out of mind.
    pub(super) fn shares(&self) {
        for chain in self.lanes.chains.values() {
            assert_eq!(chain.bytes, 10 * chain.rows);
            let last = &self.lanes.slots[chain.tail.unwrap()];
            let waits = self.order == Order::Strict || chain.stopped_until.is_some();
            let sent = last.attempts > 0 || last.phase == Phase::InFlight;
            assert!(
                !waits || sent || chain.rows <= SHARE.rows_max,
                "{} rows of a key that waits",
                chain.rows
            );
        }
        for at in (0..self.rows.len()).filter(|at| self.is_left_out(*at)) {
            let key = name(self.rows[at].key).expect("only rows with a key are left out");
            let covers = |left_out: &LeftOut| left_out.aggregateid == key && left_out.from <= at as i64;
            assert!(
                self.lanes.left_out().any(covers),
                "row {at} is neither known nor remembered as left out"
            );
        }
    }
}

fn name(key: Option<u8>) -> Option<String> {
    key.map(|key| key.to_string())
}
