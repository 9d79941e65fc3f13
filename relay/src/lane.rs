//! Decides which rows may be in flight.
//!
//! The relay asks [`Lanes::push`] for every row it reads, takes what may be published from [`Lanes::ready`], and tells
//! [`Lanes::settle`] every answer it gets. They do no I/O and own no clock; the caller passes `now`.
//!
//! The rules, each with a broken variant in the tests that shows that breaking it is noticed:
//!
//! 1. A row that is known is not taken a second time (D).
//! 2. A row is known until its DELETE or parking was answered, and no read is under way that may still show it (D).
//! 3. `strict`: of a key only the earliest unsettled row is ready or in flight (O).
//! 4. `pipelined`: the rows of a key fly together to one sink; before a row for another sink the earlier ones settle (O).
//! 5. After a negative answer no row of the key starts before the pause is over (O).
//! 6. Nor before everything of it in flight is answered; then it goes on with the earliest unsettled row (O).
//! 7. A key that waits holds up no other.
//! 8. A row is handed to the DELETE once, when it was confirmed; an unknown outcome is no confirmation (L).
//! 9. After a permanent failure the row is parked, and the later rows of its key are parked behind it (O); where the route says
//!    `skip`, the row alone; where it says `halt`, nothing is parked and the row and the later ones of its key stay.
//! 10. A row without a key, or without order, waits for nobody.
//! 11. What is in flight on a sink stays within its window, in rows and in bytes; one row is let through, however large.
//! 12. An answer counts for the row that it names while that is in flight, and for nothing else.
//! 13. A row that was not confirmed is sent again after a pause, the same row with the same id.
//! 14. A row that was taken leaves by the DELETE or by parking (L).
//! 15. More keys than memory is meant for are never held: the lanes halt and say so.
//! 16. A row that a read shows after its DELETE or parking was answered is deleted or parked once more: a database that crashed
//!     may have forgotten it (L).
//! 17. A key is held from its first poison row on: rows before it, put back into the outbox, go their way (L, R).
//! 18. Of a key that waits, or is `strict`, no more than its share is kept. Later rows are left out, all of them from the first
//!     one on, and are to be read again once it has room (L, O).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Instant,
};

use barid::transport::{Outcome, OutgoingRow, Token};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

/// Whether a test runs the variant that breaks this rule; never so in a program.
#[cfg(test)]
macro_rules! broken {
    ($lanes:expr, $variant:ident) => {
        $lanes.broken == Some(crate::lane::broken::Broken::$variant)
    };
}
#[cfg(not(test))]
macro_rules! broken {
    ($lanes:expr, $variant:ident) => {
        false
    };
}

pub mod backoff;
#[cfg(test)]
mod broken;
mod chain;
mod known;
mod left_out;
#[cfg(test)]
mod model;
mod settle;
mod slots;
mod taking;
mod terms;
#[cfg(test)]
mod tests;

use self::{
    backoff::Backoff,
    chain::Chain,
    left_out::LeftOuts,
    slots::{Ix, Phase, Slots},
};
pub use self::{
    left_out::{Again, LeftOut, Share},
    terms::{Halted, KeyId, Mark, Order, Park, ParkState, Poison, Pushed, RowId, Stats, Way, Window},
};

/// Something that becomes ready at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Key(KeyId),
    Row(Token),
}

#[derive(Debug)]
struct SinkLane {
    window: Window,
    /// Rows that may be submitted. An entry whose generation is old is skipped.
    ready: VecDeque<Token>,
    rows: usize,
    bytes: usize,
}

/// All rows between reading and deleting, and what may happen to them next.
#[derive(Debug)]
pub struct Lanes {
    slots: Slots,
    chains: HashMap<KeyId, Chain>,
    sinks: Vec<SinkLane>,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    backoff: Backoff,
    hasher: RandomState,
    /// Keys with a parked row, and the position of the first one.
    held: HashMap<KeyId, i64>,
    held_max: usize,
    left_out: LeftOuts,
    halted: Option<Halted>,
    known: HashSet<RowId>,
    /// Deleted, or parked like this, while a read was under way that may still have seen them.
    retired: HashMap<RowId, Option<Park>>,
    /// Handed out to be parked.
    parking: HashMap<RowId, Park>,
    reading: bool,
    deletes: VecDeque<RowId>,
    parks: VecDeque<Park>,
    stats: Stats,
    #[cfg(test)]
    broken: Option<broken::Broken>,
}

impl Lanes {
    /// Lanes for sinks with these windows, in the order of their indexes.
    #[must_use]
    pub fn new(windows: &[Window], backoff: Backoff) -> Self {
        let sink = |window: &Window| SinkLane { window: *window, ready: VecDeque::new(), rows: 0, bytes: 0 };
        Self {
            slots: Slots::default(),
            chains: HashMap::new(),
            sinks: windows.iter().map(sink).collect(),
            due: BinaryHeap::new(),
            backoff,
            hasher: RandomState::new(),
            held: HashMap::new(),
            held_max: usize::MAX,
            left_out: LeftOuts::default(),
            halted: None,
            known: HashSet::new(),
            retired: HashMap::new(),
            parking: HashMap::new(),
            reading: false,
            deletes: VecDeque::new(),
            parks: VecDeque::new(),
            stats: Stats::default(),
            #[cfg(test)]
            broken: None,
        }
    }

    /// The lanes halt when parked rows hold more keys than this. Without it there is no bound.
    #[must_use]
    pub fn held_max(mut self, keys: usize) -> Self {
        self.held_max = keys;
        self
    }

    /// Why the lanes can go no further, once they cannot. What is in flight is still to be settled.
    #[must_use]
    pub fn halted(&self) -> Option<&Halted> {
        self.halted.as_ref()
    }

    /// Counts on from there.
    #[must_use]
    pub fn counting_from(mut self, stats: Stats) -> Self {
        self.stats = stats;
        self
    }

    /// Holds a key that has a poison row from an earlier run: its rows after this position are parked behind it.
    pub fn hold(&mut self, aggregatetype: &str, aggregateid: &str, seq: i64) {
        let key = self.key_id(aggregatetype, aggregateid);
        let first = self.held.entry(key).or_insert(seq);
        *first = seq.min(*first);
    }

    fn is_held(&self, key: KeyId, seq: i64) -> bool {
        self.held.get(&key).is_some_and(|first| seq > *first || broken!(self, HoldsEarlierRows))
    }

    /// The next row for a sink, if its window has room. It stays ready until [`Lanes::started`].
    pub fn ready(&mut self, sink: usize) -> Option<(Token, &OutgoingRow)> {
        let lane = &mut self.sinks[sink];
        if lane.rows >= lane.window.rows_max && !broken!(self, OverfillsTheWindow) {
            return None;
        }
        if !self.due.is_empty() && broken!(self, StopsForAWaitingKey) {
            return None;
        }
        let token = loop {
            let token = *lane.ready.front()?;
            match self.slots.find(token) {
                Some(ix) if self.slots[ix].phase == Phase::Ready => break token,
                _ => lane.ready.pop_front(),
            };
        };
        let row = &self.slots[Ix::of(token)].row;
        if lane.rows > 0 && lane.bytes + row.payload_len() > lane.window.bytes_max {
            return None;
        }
        Some((token, row))
    }

    /// The row that [`Lanes::ready`] returned was handed to its sink.
    pub fn started(&mut self, token: Token) {
        let Some(ix) = self.slots.find(token) else { return };
        let slot = &mut self.slots[ix];
        debug_assert_eq!(slot.phase, Phase::Ready, "only a ready row can start");
        slot.phase = Phase::InFlight;
        let lane = &mut self.sinks[slot.way.sink];
        lane.rows += 1;
        lane.bytes += slot.row.payload_len();
        debug_assert_eq!(
            lane.ready.front(),
            Some(&token),
            "rows start in the order in which they became ready"
        );
        lane.ready.pop_front();
        if let Some(key) = slot.key {
            self.chains.entry(key).or_default().in_flight += 1;
        }
    }

    /// Takes the answer for a row in flight. An answer for a row that is not in flight is ignored.
    pub fn settle(&mut self, token: Token, outcome: Outcome, now: Instant) {
        let named = self.slots.find(token);
        #[cfg(test)]
        let named =
            named.or_else(|| broken!(self, BelievesOldAnswers).then(|| self.slots.taken(token)).flatten());
        let Some(ix) = named else { return };
        if self.slots[ix].phase != Phase::InFlight {
            return;
        }
        self.land(ix);
        match outcome {
            Outcome::Unknown(_) if broken!(self, DeletesWhatIsUnknown) => self.confirm(ix),
            #[cfg(test)]
            Outcome::Transient(_) if broken!(self, DropsWhatFailed) => self.forget(ix),
            Outcome::Confirmed => self.confirm(ix),
            Outcome::Transient(_) | Outcome::Unknown(_) => self.fail(ix, now),
            Outcome::Permanent(reason) => self.refuse(ix, reason),
        }
    }

    /// Makes ready what has waited long enough.
    pub fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, due))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            match due {
                Due::Row(token) => {
                    if let Some(ix) = self.slots.find(token) {
                        self.make_ready(ix);
                    }
                }
                Due::Key(key) => self.resume(key, now),
            }
        }
    }

    /// When [`Lanes::wake`] has something to do next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Confirmed rows, for the DELETE. At most `max`.
    pub fn take_deletes(&mut self, max: usize) -> Vec<RowId> {
        let count = self.deletes.len().min(max);
        self.deletes.drain(..count).collect()
    }

    /// Rows to park. At most `max`.
    pub fn take_parks(&mut self, max: usize) -> Vec<Park> {
        let count = self.parks.len().min(max);
        let parks: Vec<Park> = self.parks.drain(..count).collect();
        self.parking.extend(parks.iter().map(|park| (park.row, park.clone())));
        parks
    }

    /// How many rows wait for a DELETE that was not yet asked for.
    #[must_use]
    pub fn deletes_waiting(&self) -> usize {
        self.deletes.len()
    }

    /// How many rows wait for being parked.
    #[must_use]
    pub fn parks_waiting(&self) -> usize {
        self.parks.len()
    }

    /// Bytes of the payloads that are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// Rows in flight, over all sinks.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.sinks.iter().map(|sink| sink.rows).sum()
    }

    /// Rows in flight on one sink, and the bytes of their payloads.
    #[must_use]
    pub fn in_flight_on(&self, sink: usize) -> (usize, usize) {
        let lane = &self.sinks[sink];
        (lane.rows, lane.bytes)
    }

    /// What a row in flight was marked with when it was taken.
    #[must_use]
    pub fn mark(&self, token: Token) -> Option<Mark> {
        let slot = &self.slots[self.slots.find(token)?];
        (slot.phase == Phase::InFlight).then_some(slot.mark)
    }

    /// Keys held by parked rows.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Counters since the lanes were made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn key_id(&self, aggregatetype: &str, aggregateid: &str) -> KeyId {
        KeyId(self.hasher.hash_one((aggregatetype, aggregateid)))
    }
}
