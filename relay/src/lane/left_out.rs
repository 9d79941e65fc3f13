//! Keys that wait, and what they may take of the memory.
//!
//! A key whose destination refuses everything for an hour would fill the buffer with its rows, and then no row of any other key
//! could be read. So of a key that waits only its share is kept. The others stay in the outbox, and what is remembered of them is
//! one position: all rows of the key from there on are left out. When the key has room, the relay reads that key again from
//! there. Which rows that shows is the outbox's business; that none is missed and none comes too early is the mark's.

use std::collections::HashMap;

use barid::transport::OutgoingRow;

use super::{
    KeyId, Lanes, Order, Way,
    chain::Chain,
    slots::{Ix, Phase},
};

/// How much of one key is kept while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Rows between reading and an answer.
    pub rows_max: usize,
    /// Bytes of their payloads.
    pub bytes_max: usize,
}

impl Share {
    const WITHOUT_BOUND: Self = Self { rows_max: usize::MAX, bytes_max: usize::MAX };

    fn is_full(&self, chain: &Chain) -> bool {
        chain.rows >= self.rows_max || chain.bytes >= self.bytes_max
    }

    fn is_exceeded(&self, chain: &Chain) -> bool {
        chain.rows > self.rows_max || chain.bytes > self.bytes_max
    }

    /// Whether it is worth a question to the database to fill it up.
    fn has_room(&self, chain: &Chain) -> bool {
        chain.rows <= self.rows_max / 2 && chain.bytes <= self.bytes_max / 2
    }
}

/// The rows of a key that stay in the outbox for now: all from a position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The key: `aggregatetype`
    pub aggregatetype: String,
    /// The key: `aggregateid`
    pub aggregateid: String,
    /// The first position.
    pub from: i64,
}

impl LeftOut {
    fn at(row: &OutgoingRow) -> Self {
        let (aggregatetype, aggregateid) = (row.aggregatetype.clone(), row.aggregateid.clone());
        Self { aggregatetype, aggregateid: aggregateid.unwrap_or_default(), from: row.seq }
    }

    /// Two keys can share a [`KeyId`], and what is left out of the one must not be forgotten for the other.
    fn is_key_of(&self, row: &OutgoingRow) -> bool {
        self.aggregatetype == row.aggregatetype && row.aggregateid.as_ref() == Some(&self.aggregateid)
    }
}

/// A key to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Which, and from where on.
    pub left_out: LeftOut,
    /// Rows that it has room for.
    pub rows_max: usize,
    /// Bytes of their payloads that it has room for.
    pub bytes_max: usize,
}

#[derive(Debug)]
struct Mark {
    left_out: LeftOut,
    /// Whose turn it is: keys are read again in the order in which they were left out.
    turn: u64,
}

/// The keys of which something was left out.
#[derive(Debug)]
pub(super) struct LeftOuts {
    share: Share,
    marks: HashMap<KeyId, Mark>,
    turns: u64,
}

impl Default for LeftOuts {
    fn default() -> Self {
        Self { share: Share::WITHOUT_BOUND, marks: HashMap::new(), turns: 0 }
    }
}

impl LeftOuts {
    fn mark(&mut self, key: KeyId, left_out: LeftOut) {
        match self.marks.get_mut(&key) {
            Some(mark) => mark.left_out.from = left_out.from.min(mark.left_out.from),
            None => {
                self.turns += 1;
                self.marks.insert(key, Mark { left_out, turn: self.turns });
            }
        }
    }

    fn mark_row(&mut self, key: KeyId, row: &OutgoingRow) {
        match self.marks.get_mut(&key) {
            Some(mark) => mark.left_out.from = row.seq.min(mark.left_out.from),
            None => self.mark(key, LeftOut::at(row)),
        }
    }

    /// Whether the mark of this key, if there is one, is that of another key with the same hash.
    fn is_taken(&self, key: KeyId, row: &OutgoingRow) -> bool {
        self.marks.get(&key).is_some_and(|mark| !mark.left_out.is_key_of(row))
    }
}

impl Lanes {
    /// Of a key that waits, at most so much is kept. Without it there is no bound.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.left_out.share = share;
        self
    }

    /// What stays in the outbox, for sources that read the head of the table again and again.
    pub fn left_out(&self) -> impl Iterator<Item = &LeftOut> {
        self.left_out.marks.values().map(|mark| &mark.left_out)
    }

    /// The key that is to be read again now, if there is one. Read it from there on, and hand over what was found between
    /// [`Lanes::readmit`] and [`Lanes::leave_out`].
    #[must_use]
    pub fn again(&self) -> Option<Again> {
        let LeftOuts { share, marks, .. } = &self.left_out;
        let empty = Chain::default();
        let room = marks.iter().filter_map(|(key, mark)| {
            let chain = self.chains.get(key).unwrap_or(&empty);
            share.has_room(chain).then_some((mark, chain))
        });
        let (mark, chain) = room.min_by_key(|(mark, _)| mark.turn)?;
        (!broken!(self, ForgetsWhatWasLeftOut)).then(|| Again {
            left_out: mark.left_out.clone(),
            rows_max: share.rows_max.saturating_sub(chain.rows),
            bytes_max: share.bytes_max.saturating_sub(chain.bytes),
        })
    }

    /// The rows that come now were read for this key, from there on: they are not to be left out for those that were.
    pub fn readmit(&mut self, left_out: &LeftOut) {
        let key = self.key_id(&left_out.aggregatetype, &left_out.aggregateid);
        let marks = &mut self.left_out.marks;
        // Nothing before that position can have been left out since it was asked for. If it was, it is asked for first.
        if marks.get(&key).is_some_and(|mark| mark.left_out.from >= left_out.from) {
            marks.remove(&key);
        }
    }

    /// There may be more rows of this key from there on, which were not read: that is so unless a read found nothing.
    pub fn leave_out(&mut self, left_out: LeftOut) {
        let key = self.key_id(&left_out.aggregatetype, &left_out.aggregateid);
        self.left_out.mark(key, left_out);
    }

    /// Whether a row that was read stays in the outbox: because earlier ones of its key do, or because there is no room for it.
    pub(super) fn leaves_out(&mut self, key: KeyId, row: &OutgoingRow, way: Way) -> bool {
        let (LeftOuts { share, marks, .. }, chain) = (&self.left_out, self.chains.get(&key));
        let behind = marks.contains_key(&key) && !broken!(self, TakesRowsBehindTheLeftOut);
        let waits = |chain: &&Chain| way.order == Order::Strict || chain.stopped_until.is_some();
        let no_room = chain.filter(waits).is_some_and(|chain| share.is_full(chain));
        if !behind && !no_room || self.left_out.is_taken(key, row) || broken!(self, KeepsEverything) {
            return false;
        }
        self.left_out.mark_row(key, row);
        self.stats.left_out += 1;
        true
    }

    /// A key has stopped with more than its share in memory: the last rows leave it again, as far as they were never sent.
    pub(super) fn leave_out_the_last(&mut self, key: KeyId) {
        while let Some(last) = self.superfluous(key) {
            self.left_out.mark_row(key, &self.slots[last].row);
            let (id, _) = self.take(last);
            self.known.remove(&id);
            self.stats.left_out += 1;
        }
    }

    fn superfluous(&self, key: KeyId) -> Option<Ix> {
        let chain = self.chains.get(&key).filter(|chain| self.left_out.share.is_exceeded(chain))?;
        let slot = &self.slots[chain.tail?];
        let stays =
            slot.attempts > 0 || slot.phase == Phase::InFlight || self.left_out.is_taken(key, &slot.row);
        (!stays && !broken!(self, KeepsEverything)).then_some(chain.tail).flatten()
    }
}
