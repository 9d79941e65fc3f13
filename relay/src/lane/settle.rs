//! What an answer does to a row and to the rows behind it.

use std::{cmp::Reverse, iter::successors, time::Instant};

use super::{
    Due, Halted, KeyId, Lanes, Order, Park, ParkState, Poison, Pushed, RowId,
    slots::{Ix, Phase},
};

impl Lanes {
    /// Takes a row that appeared too late for its order: it is parked, and its key is held.
    pub fn push_late(&mut self, id: RowId, key: Option<(&str, &str)>, reason: String) -> Pushed {
        let pushed = self.push_refused(id, key, reason);
        self.stats.late += u64::from(pushed != Pushed::Known);
        pushed
    }

    /// The row is no longer in flight, whatever the answer.
    pub(super) fn land(&mut self, ix: Ix) {
        let slot = &mut self.slots[ix];
        slot.phase = Phase::Waiting;
        slot.attempts = slot.attempts.saturating_add(1);
        let lane = &mut self.sinks[slot.way.sink];
        lane.rows -= 1;
        lane.bytes -= slot.row.payload_len();
        if let Some(chain) = slot.key.and_then(|key| self.chains.get_mut(&key)) {
            chain.in_flight -= 1;
        }
    }

    pub(super) fn confirm(&mut self, ix: Ix) {
        self.stats.confirmed += 1;
        let key = self.slots[ix].key;
        if key.is_some_and(|key| self.chains[&key].stopped_until.is_some()) && self.is_behind_a_failure(ix) {
            self.stats.breaks += 1;
        }
        let id = self.take(ix).0;
        self.deletes.push_back(id);
        if let Some(key) = key {
            self.settled(key);
        }
    }

    /// Whether a row of the key has to be sent again that comes before this one.
    fn is_behind_a_failure(&self, ix: Ix) -> bool {
        let earlier = |at: &Ix| self.slots[*at].previous;
        successors(self.slots[ix].previous, earlier).any(|at| {
            let slot = &self.slots[at];
            slot.attempts > 0 && slot.phase == Phase::Waiting
        })
    }

    /// The row is sent again later; its key waits for it.
    pub(super) fn fail(&mut self, ix: Ix, now: Instant) {
        let (key, attempts, seq) = (self.slots[ix].key, self.slots[ix].attempts, self.slots[ix].row.seq);
        if let Some(key) = key
            && self.held.get(&key).is_some_and(|poison| seq > *poison)
        {
            let (id, attempts) = self.take(ix);
            self.park_behind(id, attempts);
            return self.settled(key);
        }
        self.stats.retried += 1;
        let pause = self.backoff.delay(attempts);
        let until = if broken!(self, RetriesAtOnce) { now } else { now + pause };
        let Some(key) = key else {
            self.due.push(Reverse((until, Due::Row(self.slots.token(ix)))));
            return;
        };
        let chain = self.chains.entry(key).or_default();
        let stopped = chain.stopped_until;
        let until = stopped.map_or(until, |earlier| earlier.max(until));
        chain.stopped_until = Some(until);
        self.due.push(Reverse((until, Due::Key(key))));
        if stopped.is_none() && !broken!(self, GoesOnAfterAFailure) {
            self.take_back(key);
        }
        self.leave_out_the_last(key);
    }

    /// The row can never be delivered.
    pub(super) fn refuse(&mut self, ix: Ix, reason: String) {
        match self.slots[ix].way.poison {
            Poison::BlockKey => self.block(ix, reason),
            Poison::Skip if broken!(self, SkipsTheWholeKey) => self.block(ix, reason),
            Poison::Skip => self.skip(ix, reason),
            Poison::Halt => {
                let row = RowId::of(&self.slots[ix].row);
                let reason = format!("its route says halt: {reason}");
                self.halted.get_or_insert(Halted { row, reason });
            }
        }
    }

    /// The row alone is parked, and its key goes on.
    fn skip(&mut self, ix: Ix, reason: String) {
        let (key, sink) = (self.slots[ix].key, self.slots[ix].way.sink);
        let (row, attempts) = self.take(ix);
        self.park(row, ParkState::Skipped, attempts, reason, Some(sink));
        if let Some(key) = key {
            self.settled(key);
        }
    }

    /// The row is parked; the rows of its key behind it are parked with it.
    fn block(&mut self, ix: Ix, reason: String) {
        let slot = &self.slots[ix];
        let (key, next, sink) = (slot.key, slot.next, slot.way.sink);
        // Where there is a key and no order, nobody waits for this row, not even after a restart.
        let holds = key.is_some() || slot.row.aggregateid.is_none();
        let (id, attempts) = self.take(ix);
        let Some(key) = key else {
            let state = if holds { ParkState::Poison } else { ParkState::Skipped };
            return self.park(id, state, attempts, reason, Some(sink));
        };
        let first = self.held.get(&key).is_none_or(|poison| id.seq <= *poison);
        if first && !broken!(self, ForgetsWhoIsBehind) {
            self.hold_behind(key, id);
        }
        self.park(id, ParkState::Poison, attempts, reason, Some(sink));
        let mut at = next;
        while let Some(behind) = at {
            at = self.slots[behind].next;
            if self.slots[behind].phase != Phase::InFlight {
                let (id, attempts) = self.take(behind);
                self.park_behind(id, attempts);
            }
        }
        self.settled(key);
    }

    pub(super) fn park(
        &mut self,
        row: RowId,
        state: ParkState,
        attempts: u32,
        reason: String,
        sink: Option<usize>,
    ) {
        match state {
            ParkState::Poison => self.stats.poison += 1,
            ParkState::Behind => self.stats.behind += 1,
            ParkState::Skipped => self.stats.skipped += 1,
        }
        self.parks.push_back(Park { row, state, attempts, reason, sink, fingerprint: None });
    }

    /// The rows of a key after this one are to be parked behind it.
    pub(super) fn hold_behind(&mut self, key: KeyId, row: RowId) {
        self.held.insert(key, row.seq);
        if self.held.len() > self.held_max && !broken!(self, HoldsWithoutEnd) {
            let reason = format!(
                "{} keys are held by parked messages, more than the {} that a relay keeps in mind; see \
                 `barid-relay parked groups`, repair the cause, then `barid-relay parked retry` or `skip`, and start it again",
                self.held.len(),
                self.held_max
            );
            self.halted.get_or_insert(Halted { row, reason });
        }
    }

    pub(super) fn park_behind(&mut self, row: RowId, attempts: u32) {
        let reason = "waits behind a parked row of its key".to_owned();
        self.park(row, ParkState::Behind, attempts, reason, None);
    }

    /// The pause of a key is over, unless it was made longer meanwhile or rows are still in flight.
    pub(super) fn resume(&mut self, key: KeyId, now: Instant) {
        let Some(chain) = self.chains.get_mut(&key) else { return };
        let draining = chain.in_flight > 0 && !broken!(self, ResumesBeforeItDrained);
        if chain.stopped_until.is_none_or(|until| until > now) || draining {
            return;
        }
        chain.stopped_until = None;
        chain.frontier = chain.head;
        self.advance(key);
    }

    /// Makes ready what its predecessors allow.
    pub(super) fn advance(&mut self, key: KeyId) {
        loop {
            let Some(chain) = self.chains.get_mut(&key) else { return };
            if chain.stopped_until.is_some() {
                return;
            }
            let Some(ix) = chain.frontier else { return };
            let slot = &self.slots[ix];
            let allowed = match slot.previous {
                None => true,
                // By induction all rows before it are pipelined to the same sink too, and ready or in flight.
                Some(_) if broken!(self, LetsTwoRowsFly) => true,
                Some(_) if broken!(self, FliesToTwoSinks) => slot.way.order == Order::Pipelined,
                Some(previous) => slot.way.order == Order::Pipelined && self.slots[previous].way == slot.way,
            };
            if !allowed {
                return;
            }
            chain.frontier = slot.next;
            self.make_ready(ix);
        }
    }

    /// Loses a row.
    #[cfg(test)]
    pub(super) fn forget(&mut self, ix: Ix) {
        let key = self.slots[ix].key;
        let (id, _) = self.take(ix);
        self.known.remove(&id);
        if let Some(key) = key {
            self.settled(key);
        }
    }

    pub(super) fn make_ready(&mut self, ix: Ix) {
        let token = self.slots.token(ix);
        let slot = &mut self.slots[ix];
        slot.phase = Phase::Ready;
        self.sinks[slot.way.sink].ready.push_back(token);
    }

    /// After a row of a key left its chain.
    fn settled(&mut self, key: KeyId) {
        let Some(chain) = self.chains.get_mut(&key) else { return };
        if chain.is_empty() {
            self.chains.remove(&key);
            return;
        }
        match chain.stopped_until {
            None => self.advance(key),
            // The pause may have ended while rows were in flight: ask again, at once if so.
            Some(until) if chain.in_flight == 0 => self.due.push(Reverse((until, Due::Key(key)))),
            Some(_) => {}
        }
    }

    /// Takes back the ready rows of a key that stopped.
    fn take_back(&mut self, key: KeyId) {
        let chain = &self.chains[&key];
        let (mut at, frontier) = (chain.head, chain.frontier);
        while let Some(ix) = at.filter(|_| at != frontier) {
            at = self.slots[ix].next;
            if self.slots[ix].phase == Phase::Ready {
                self.slots[ix].phase = Phase::Waiting;
                self.slots.revoke(ix);
            }
        }
    }

    /// Takes a row out of its place and its chain.
    pub(super) fn take(&mut self, ix: Ix) -> (RowId, u32) {
        if let Some(chain) = self.slots[ix].key.and_then(|key| self.chains.get_mut(&key)) {
            chain.unlink(&mut self.slots, ix);
        }
        let slot = self.slots.remove(ix);
        (RowId::of(&slot.row), slot.attempts)
    }
}
