//! Where the reading thread puts messages and the consumer takes them from. Pure: no I/O, no clock of its own.
//!
//! The desk keeps the promises of the receiving half: at most `prefetch` deliveries unsettled, one of a key at a time
//! ([`Gate`]), later deliveries of a key never before an earlier one is settled, positions that move only past handled
//! messages ([`Offsets`]). What belongs to a partition that was taken away is forgotten; its late answers change nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{gate::Gate, offsets::Offsets};
use crate::{
    headers::Headers,
    transport::{Repeat, TransportError},
};

/// A partition of a topic.
pub(super) type Place = (Arc<str>, i32);

/// A message as it was read.
pub(super) struct Message {
    /// Which assignment it was read under: a partition that comes back later has another number.
    pub(super) assignment: u64,
    pub(super) topic: Arc<str>,
    pub(super) offset: i64,
    pub(super) key: Option<Arc<[u8]>>,
    pub(super) headers: Headers,
    pub(super) body: Bytes,
    pub(super) repeat: Repeat,
}

/// What the consumer may do now.
pub(super) enum Next {
    /// Hand this out.
    Deliver(Arc<Message>, Repeat),
    /// Report this.
    Fail(TransportError),
    /// Wait until told, or until then.
    Wait(Option<Instant>),
}

/// The bounds of a desk.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) prefetch: usize,
    pub(super) held_max: usize,
    pub(super) open_max: usize,
}

/// See the module.
pub(super) struct Desk {
    bounds: Bounds,
    assigned: HashMap<u64, Assigned>,
    numbers: HashMap<Place, u64>,
    next_number: u64,
    ready: VecDeque<(Arc<Message>, Repeat)>,
    delayed: BTreeMap<(Instant, u64), Arc<Message>>,
    next_delay: u64,
    gate: Gate<(u64, Arc<[u8]>), Arc<Message>>,
    handed_out: usize,
    failure: Option<TransportError>,
    /// Nothing is handed out any more; what is out may still be settled.
    pub(super) closing: bool,
    /// The reading thread is gone.
    pub(super) finished: bool,
    /// Partitions were assigned since the reader last looked: whether they are paused is not known.
    pub(super) reassigned: bool,
}

struct Assigned {
    place: Place,
    offsets: Offsets,
    /// Messages below this existed when the partition was assigned: somebody may have had them.
    repeats_below: i64,
    /// The position that the broker was last told.
    told: Option<i64>,
}

impl Desk {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            assigned: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            next_delay: 0,
            gate: Gate::new(),
            handed_out: 0,
            failure: None,
            closing: false,
            finished: false,
            reassigned: false,
        }
    }

    /// A partition is ours from now on; `end` is one past its last message.
    pub(super) fn assign(&mut self, place: Place, end: i64) {
        self.revoke(&place);
        self.next_number += 1;
        self.numbers.insert(place.clone(), self.next_number);
        let assigned = Assigned { place, offsets: Offsets::default(), repeats_below: end, told: None };
        self.assigned.insert(self.next_number, assigned);
        self.reassigned = true;
    }

    /// A partition is no longer ours. Its last position, told or not: what was told may still be on its way, and fail.
    pub(super) fn revoke(&mut self, place: &Place) -> Option<i64> {
        let number = self.numbers.remove(place)?;
        let gone = self.assigned.remove(&number)?;
        self.ready.retain(|(message, _)| message.assignment != number);
        self.delayed.retain(|_, message| message.assignment != number);
        self.gate.retain(|(assignment, _)| *assignment != number);
        gone.offsets.moved().then(|| gone.offsets.position()).flatten()
    }

    /// No partition is ours any more.
    pub(super) fn revoke_all(&mut self) {
        let places: Vec<Place> = self.numbers.keys().cloned().collect();
        for place in places {
            // The position is lost with the client that could have committed it: these messages come again.
            let _ = self.revoke(&place);
        }
    }

    /// The reader has a message. Ignored when its partition is not ours or it was read before.
    pub(super) fn receive(
        &mut self,
        place: &Place,
        offset: i64,
        key: Option<&[u8]>,
        headers: Headers,
        body: Bytes,
    ) {
        let Some(number) = self.numbers.get(place).copied() else { return };
        let Some(assigned) = self.assigned.get_mut(&number) else { return };
        if !assigned.offsets.received(offset) || self.closing {
            return;
        }
        let repeat = if offset < assigned.repeats_below { Repeat::Possible } else { Repeat::First };
        let (topic, key) = (Arc::clone(&place.0), key.map(Arc::from));
        let message = Arc::new(Message { assignment: number, topic, offset, key, headers, body, repeat });
        let admitted = match message.gate_key() {
            Some(key) => self.gate.admit(&key, message),
            None => Some(message),
        };
        self.ready.extend(admitted.map(|message| (message, repeat)));
    }

    /// Whether the reader should fetch more.
    pub(super) fn wants_more(&self) -> bool {
        let buffered = self.ready.len() + self.delayed.len() + self.gate.waiting() + self.handed_out;
        let open = |assigned: &Assigned| assigned.offsets.open() < self.bounds.open_max;
        !self.closing
            && buffered < self.bounds.prefetch + self.bounds.held_max
            && self.assigned.values().all(open)
    }

    /// What the consumer may do at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(failure) = self.failure.take() {
            return Next::Fail(failure);
        }
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            self.ready.push_back((entry.remove(), Repeat::Possible));
        }
        if self.handed_out < self.bounds.prefetch {
            if let Some((message, repeat)) = self.ready.pop_front() {
                self.handed_out += 1;
                return Next::Deliver(message, repeat);
            }
            return Next::Wait(self.delayed.first_key_value().map(|((due, _), _)| *due));
        }
        Next::Wait(None)
    }

    /// A delivery is done. False when its partition was taken away: the message will come again.
    pub(super) fn ack(&mut self, message: &Message) -> bool {
        self.handed_out -= 1;
        let Some(assigned) = self.assigned.get_mut(&message.assignment) else { return false };
        assigned.offsets.handled(message.offset);
        if let Some(next) = message.gate_key().and_then(|key| self.gate.release(&key)) {
            let repeat = next.repeat;
            self.ready.push_back((next, repeat));
        }
        true
    }

    /// A delivery is to come again at `due`; its key waits for it.
    pub(super) fn nack(&mut self, message: Arc<Message>, due: Instant) {
        self.handed_out -= 1;
        if self.assigned.contains_key(&message.assignment) && !self.closing {
            self.next_delay += 1;
            self.delayed.insert((due, self.next_delay), message);
        }
    }

    /// Positions that the broker was not told yet; from now on it counts as told.
    pub(super) fn tell(&mut self) -> Vec<(Place, i64)> {
        let mut positions = Vec::new();
        for assigned in self.assigned.values_mut() {
            if let Some(position) = assigned.untold() {
                assigned.told = Some(position);
                positions.push((assigned.place.clone(), position));
            }
        }
        positions
    }

    /// The broker did not take a position: tell it again.
    pub(super) fn untell(&mut self, place: &Place) {
        if let Some(assigned) = self.numbers.get(place).and_then(|number| self.assigned.get_mut(number)) {
            assigned.told = None;
        }
    }

    /// Nothing counts as told any more: what was told may still be on its way, and fail.
    pub(super) fn untell_all(&mut self) {
        self.assigned.values_mut().for_each(|assigned| assigned.told = None);
    }

    /// Something that the consumer's user should hear of.
    pub(super) fn fail(&mut self, error: TransportError) {
        self.failure = Some(error);
    }

    /// Stops handing out. What was not handed out stays unhandled and comes again.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.ready.clear();
        self.delayed.clear();
        self.gate.retain(|_| false);
    }

    /// Whether every delivery was settled or dropped.
    pub(super) fn is_settled(&self) -> bool {
        self.handed_out == 0
    }
}

impl Assigned {
    /// The position, when something was handled since the broker was last told.
    fn untold(&self) -> Option<i64> {
        let position = self.offsets.position()?;
        let moved = match self.told {
            Some(told) => position > told,
            None => self.offsets.moved(),
        };
        moved.then_some(position)
    }
}

impl Message {
    fn gate_key(&self) -> Option<(u64, Arc<[u8]>)> {
        self.key.clone().map(|key| (self.assignment, key))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: Bounds = Bounds { prefetch: 3, held_max: 2, open_max: 100 };

    fn place() -> Place {
        (Arc::from("orders"), 0)
    }

    fn desk(end: i64) -> Desk {
        let mut desk = Desk::new(BOUNDS);
        desk.assign(place(), end);
        desk
    }

    fn put(desk: &mut Desk, offset: i64, key: Option<&str>) {
        desk.receive(&place(), offset, key.map(str::as_bytes), Headers::new(), Bytes::new());
    }

    fn take(desk: &mut Desk, now: Instant) -> Option<(Arc<Message>, Repeat)> {
        match desk.next(now) {
            Next::Deliver(message, repeat) => Some((message, repeat)),
            Next::Wait(_) => None,
            Next::Fail(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_nacked_message_holds_its_key_and_no_other() {
        let now = Instant::now();
        let mut desk = desk(0);
        put(&mut desk, 1, Some("a"));
        put(&mut desk, 2, Some("a"));
        put(&mut desk, 3, Some("b"));
        let (first, repeat) = take(&mut desk, now).unwrap();
        assert_eq!((first.offset, repeat), (1, Repeat::First));
        desk.nack(first, now + Duration::from_secs(1));
        let (other, _) = take(&mut desk, now).unwrap();
        assert_eq!(other.offset, 3);
        assert!(desk.ack(&other));
        assert!(take(&mut desk, now).is_none());
        assert!(desk.tell().is_empty(), "nothing below offset 1 was handled");
        let (again, repeat) = take(&mut desk, now + Duration::from_secs(1)).unwrap();
        assert_eq!((again.offset, repeat), (1, Repeat::Possible));
        assert!(desk.ack(&again));
        let (second, repeat) = take(&mut desk, now).unwrap();
        assert_eq!((second.offset, repeat), (2, Repeat::First));
        assert!(desk.ack(&second));
        assert_eq!(desk.tell(), [(place(), 4)]);
        assert!(desk.tell().is_empty());
    }

    #[test]
    fn what_existed_at_the_assignment_may_be_a_repeat() {
        let mut desk = desk(6);
        put(&mut desk, 5, None);
        put(&mut desk, 6, None);
        let now = Instant::now();
        assert_eq!(take(&mut desk, now).unwrap().1, Repeat::Possible);
        assert_eq!(take(&mut desk, now).unwrap().1, Repeat::First);
    }

    #[test]
    fn an_answer_for_a_partition_that_was_taken_away_changes_nothing() {
        let now = Instant::now();
        let mut desk = desk(0);
        put(&mut desk, 1, Some("a"));
        put(&mut desk, 2, Some("a"));
        let (message, _) = take(&mut desk, now).unwrap();
        assert_eq!(desk.revoke(&place()), None, "nothing was handled");
        desk.assign(place(), 9);
        put(&mut desk, 1, Some("a"));
        assert!(!desk.ack(&message));
        assert!(desk.tell().is_empty());
        assert_eq!(take(&mut desk, now).unwrap().1, Repeat::Possible);
    }

    #[test]
    fn the_reader_stops_when_enough_lies_here() {
        let now = Instant::now();
        let mut desk = desk(0);
        for offset in 0..5 {
            assert!(desk.wants_more());
            put(&mut desk, offset, None);
        }
        assert!(!desk.wants_more());
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut desk, now)).collect();
        assert_eq!(taken.len(), 3, "prefetch");
        assert!(desk.ack(&taken[0].0));
        assert!(desk.wants_more() && take(&mut desk, now).is_some());
    }

    #[test]
    fn a_refused_position_is_told_again() {
        let mut desk = desk(0);
        put(&mut desk, 1, None);
        let (message, _) = take(&mut desk, Instant::now()).unwrap();
        assert!(desk.ack(&message));
        assert_eq!(desk.tell(), [(place(), 2)]);
        desk.untell(&place());
        assert_eq!(desk.tell(), [(place(), 2)]);
        desk.untell_all();
        assert_eq!(desk.tell(), [(place(), 2)]);
        assert_eq!(desk.revoke(&place()), Some(2), "the answer to the last one may not have come yet");
    }

    #[test]
    fn closing_keeps_only_what_is_handed_out() {
        let now = Instant::now();
        let mut desk = desk(0);
        put(&mut desk, 1, None);
        put(&mut desk, 2, None);
        let (message, _) = take(&mut desk, now).unwrap();
        desk.close();
        put(&mut desk, 3, None);
        assert!(take(&mut desk, now).is_none() && !desk.is_settled());
        assert!(desk.ack(&message) && desk.is_settled());
        assert_eq!(desk.tell(), [(place(), 2)]);
    }
}
