//! Random schedules against a model that is too simple to be wrong, and the cases worth naming.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use barid::Destination;
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SINKS: usize = 2;

fn row(seq: i64, key: Option<u8>) -> OutgoingRow {
    OutgoingRow {
        seq,
        id: Uuid::from_u128(u128::try_from(seq).unwrap()),
        destination: Destination::queue("q").unwrap(),
        aggregatetype: "order".to_owned(),
        aggregateid: key.map(|key| key.to_string()),
        name: "test".to_owned(),
        payload: Some(Bytes::from_static(b"0123456789")),
        headers: barid::Headers::new(),
        tracingspancontext: None,
    }
}

fn lanes(rows_max: usize) -> Lanes {
    let window = Window { rows_max, bytes_max: 1 << 20 };
    Lanes::new(&[window; SINKS], Backoff::new(Duration::from_millis(1), Duration::from_millis(50), 1))
}

const STRICT: Way = Way { sink: 0, order: Order::Strict };
const PIPELINED: Way = Way { sink: 0, order: Order::Pipelined };

fn start(lanes: &mut Lanes, sink: usize) -> Vec<(i64, Token)> {
    let mut started = Vec::new();
    while let Some((token, row)) = lanes.ready(sink) {
        started.push((row.seq, token));
        lanes.started(token);
    }
    started
}

fn seqs(started: &[(i64, Token)]) -> Vec<i64> {
    started.iter().map(|(seq, _)| *seq).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Push { key: Option<u8>, sink: usize },
    Start { sink: usize },
    Settle { pick: usize, answer: u8 },
    Advance { ms: u64 },
    Delete,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (prop::option::weighted(0.9, 0..4u8), 0..SINKS).prop_map(|(key, sink)| Op::Push { key, sink }),
        4 => (0..SINKS).prop_map(|sink| Op::Start { sink }),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(pick, answer)| Op::Settle { pick, answer }),
        2 => (0..40u64).prop_map(|ms| Op::Advance { ms }),
        1 => Just(Op::Delete),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Queued,
    InFlight,
    Done,
}

/// What the model remembers of a row.
struct Known {
    key: Option<u8>,
    way: Way,
    is: Is,
}

struct Model {
    lanes: Lanes,
    rows: Vec<Known>,
    in_flight: Vec<(usize, Token)>,
    parked: HashMap<i64, ParkState>,
    deleted: HashSet<i64>,
    now: Instant,
    order: Order,
}

impl Model {
    fn new(order: Order) -> Self {
        Self {
            lanes: lanes(5),
            rows: Vec::new(),
            in_flight: Vec::new(),
            parked: HashMap::new(),
            deleted: HashSet::new(),
            now: Instant::now(),
            order,
        }
    }

    fn start_one(&mut self, sink: usize) -> bool {
        let Some((token, row)) = self.lanes.ready(sink) else { return false };
        let at = usize::try_from(row.seq).unwrap();
        let Known { key, way, is } = self.rows[at];
        assert_eq!(is, Is::Queued, "row {at} was in flight twice or came back after it was settled");
        assert_eq!(way.sink, sink);
        self.lanes.started(token);
        if key.is_some() && self.order != Order::None {
            for (earlier, other) in self.rows[..at].iter().enumerate().filter(|(_, other)| other.key == key) {
                let fine = match other.is {
                    Is::Done => true,
                    Is::InFlight => self.order == Order::Pipelined && other.way == way,
                    Is::Queued => false,
                };
                assert!(fine, "row {at} started while {earlier} of its key was {:?}", other.is);
            }
        }
        self.rows[at].is = Is::InFlight;
        self.in_flight.push((at, token));
        true
    }

    fn settle(&mut self, at: usize, token: Token, outcome: Outcome) {
        self.rows[at].is = match &outcome {
            Outcome::Confirmed | Outcome::Permanent(_) => Is::Done,
            _ => Is::Queued,
        };
        self.lanes.settle(token, outcome, self.now);
        self.collect();
    }

    /// Parked and deleted rows are done; every row is one of them at most once.
    fn collect(&mut self) {
        for park in self.lanes.take_parks(usize::MAX) {
            let at = usize::try_from(park.row.seq).unwrap();
            assert_ne!(self.rows[at].is, Is::InFlight, "row {at} was parked in flight");
            self.rows[at].is = Is::Done;
            assert!(self.parked.insert(park.row.seq, park.state).is_none());
            self.lanes.gone([park.row]);
        }
    }

    fn delete(&mut self) {
        let rows = self.lanes.take_deletes(3);
        for id in &rows {
            assert!(self.deleted.insert(id.seq), "row {} was deleted twice", id.seq);
            assert_eq!(self.rows[usize::try_from(id.seq).unwrap()].is, Is::Done);
        }
        self.lanes.gone(rows);
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Push { key, sink } => {
                let way = Way { sink, order: self.order };
                let seq = i64::try_from(self.rows.len()).unwrap();
                self.rows.push(Known { key, way, is: Is::Queued });
                self.lanes.push(row(seq, key), way);
                self.collect();
            }
            Op::Start { sink } => {
                self.start_one(sink);
            }
            Op::Settle { pick, answer } if !self.in_flight.is_empty() => {
                let (at, token) = self.in_flight.swap_remove(pick % self.in_flight.len());
                let outcome = match answer {
                    0..=150 => Outcome::Confirmed,
                    151..=200 => Outcome::Transient("busy".to_owned()),
                    201..=240 => Outcome::Unknown("lost".to_owned()),
                    _ => Outcome::Permanent("refused".to_owned()),
                };
                self.settle(at, token, outcome);
            }
            Op::Settle { .. } => {}
            Op::Advance { ms } => {
                self.now += Duration::from_millis(ms);
                self.lanes.wake(self.now);
            }
            Op::Delete => self.delete(),
        }
        assert!(self.lanes.in_flight() == self.in_flight.len());
    }

    /// Confirms everything that is left; nothing may be stuck and nothing lost.
    fn finish(mut self) {
        loop {
            while (0..SINKS).any(|sink| self.start_one(sink)) {}
            if let Some((at, token)) = self.in_flight.pop() {
                self.settle(at, token, Outcome::Confirmed);
            } else if let Some(at) = self.lanes.next_wake() {
                self.now = self.now.max(at);
                self.lanes.wake(self.now);
            } else {
                break;
            }
        }
        while self.lanes.deletes_waiting() > 0 {
            self.delete();
        }
        assert_eq!(self.deleted.len() + self.parked.len(), self.rows.len(), "every row is deleted or parked");
        assert_eq!((self.lanes.rows(), self.lanes.bytes(), self.lanes.in_flight()), (0, 0, 0));
        assert!(self.lanes.chains.is_empty());
        for (seq, _) in self.parked.iter().filter(|(_, state)| **state == ParkState::Behind) {
            let key = self.rows[usize::try_from(*seq).unwrap()].key;
            let poison = |at: &i64| self.rows[usize::try_from(*at).unwrap()].key == key && at < seq;
            assert!(self.parked.iter().any(|(at, state)| *state == ParkState::Poison && poison(at)));
        }
    }
}

fn check(order: Order, ops: &[Op]) {
    let mut model = Model::new(order);
    for op in ops {
        model.run(op);
    }
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn strict_keeps_one_row_a_key_in_flight(ops in prop::collection::vec(op(), 1..150)) {
        check(Order::Strict, &ops);
    }

    #[test]
    fn pipelined_resumes_at_the_failed_row(ops in prop::collection::vec(op(), 1..150)) {
        check(Order::Pipelined, &ops);
    }

    #[test]
    fn none_loses_nothing(ops in prop::collection::vec(op(), 1..150)) {
        check(Order::None, &ops);
    }
}

#[test]
fn other_keys_fill_the_window_while_one_key_waits() {
    let mut lanes = lanes(10);
    for (seq, key) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 2)] {
        lanes.push(row(seq, Some(key)), STRICT);
    }
    assert_eq!(seqs(&start(&mut lanes, 0)), [1, 3, 4]);
}

#[test]
fn a_waiting_key_does_not_hold_up_the_others() {
    let (mut lanes, now) = (lanes(10), Instant::now());
    lanes.push(row(1, Some(1)), STRICT);
    lanes.push(row(2, Some(1)), STRICT);
    let first = start(&mut lanes, 0);
    lanes.settle(first[0].1, Outcome::Transient("busy".to_owned()), now);
    lanes.push(row(3, Some(2)), STRICT);
    assert_eq!(seqs(&start(&mut lanes, 0)), [3]);
    lanes.wake(lanes.next_wake().unwrap());
    assert_eq!(seqs(&start(&mut lanes, 0)), [1], "the failed row goes first, row 2 still waits");
}

#[test]
fn a_parked_row_takes_the_later_rows_of_its_key_with_it() {
    let mut lanes = lanes(10);
    for (seq, key) in [(1, 1), (2, 1), (3, 2)] {
        lanes.push(row(seq, Some(key)), STRICT);
    }
    let started = start(&mut lanes, 0);
    lanes.settle(started[0].1, Outcome::Permanent("too large".to_owned()), Instant::now());
    assert_eq!(lanes.push(row(4, Some(1)), STRICT), Pushed::Behind);
    let parks: Vec<_> = lanes.take_parks(10).into_iter().map(|park| (park.row.seq, park.state)).collect();
    assert_eq!(parks, [(1, ParkState::Poison), (2, ParkState::Behind), (4, ParkState::Behind)]);
    assert_eq!(lanes.in_flight(), 1, "key 2 flows");
}

#[test]
fn a_pipelined_key_drains_before_it_resumes() {
    let (mut lanes, now) = (lanes(3), Instant::now());
    for seq in 1..=5 {
        lanes.push(row(seq, Some(1)), PIPELINED);
    }
    let started = start(&mut lanes, 0);
    assert_eq!(seqs(&started), [1, 2, 3]);
    lanes.settle(started[0].1, Outcome::Unknown("lost".to_owned()), now);
    let later = now + Duration::from_secs(1);
    lanes.wake(later);
    assert!(start(&mut lanes, 0).is_empty(), "rows 2 and 3 are still in flight");
    lanes.settle(started[1].1, Outcome::Confirmed, later);
    lanes.settle(started[2].1, Outcome::Unknown("lost".to_owned()), later);
    lanes.wake(later + Duration::from_secs(1));
    assert_eq!(seqs(&start(&mut lanes, 0)), [1, 3, 4]);
    assert_eq!(lanes.stats().breaks, 1, "row 2 arrived before row 1");
}

#[test]
fn the_window_counts_bytes_and_lets_one_large_row_through() {
    let window = Window { rows_max: 100, bytes_max: 25 };
    let mut lanes = Lanes::new(&[window], Backoff::new(Duration::ZERO, Duration::ZERO, 1));
    for seq in 1..=4 {
        lanes.push(row(seq, None), STRICT);
    }
    assert_eq!(seqs(&start(&mut lanes, 0)), [1, 2], "three would be 30 bytes");
    let mut large = row(9, None);
    large.payload = Some(Bytes::from(vec![0; 1000]));
    let mut lanes = Lanes::new(&[window], Backoff::new(Duration::ZERO, Duration::ZERO, 1));
    lanes.push(large, STRICT);
    assert_eq!(seqs(&start(&mut lanes, 0)), [9]);
}

#[test]
fn a_row_is_known_until_no_read_can_still_show_it() {
    let mut lanes = lanes(10);
    lanes.push(row(1, None), STRICT);
    let started = start(&mut lanes, 0);
    assert_eq!(lanes.push(row(1, None), STRICT), Pushed::Known);
    lanes.settle(started[0].1, Outcome::Confirmed, Instant::now());
    lanes.read_started();
    let deleted = lanes.take_deletes(10);
    lanes.gone(deleted);
    assert_eq!(lanes.push(row(1, None), STRICT), Pushed::Known, "the read began before the DELETE returned");
    lanes.read_finished();
    assert_eq!(lanes.rows(), 0);
    assert_eq!(lanes.push(row(1, None), STRICT), Pushed::New);
}

#[test]
fn a_refused_row_holds_its_key() {
    let mut lanes = lanes(10);
    let id = RowId { seq: 1, id: Uuid::nil() };
    lanes.push_refused(id, Some(("order", "1")), "no route".to_owned());
    assert_eq!(lanes.push(row(2, Some(1)), STRICT), Pushed::Behind);
    assert_eq!(lanes.push(row(3, Some(2)), STRICT), Pushed::New);
}

#[test]
fn a_key_held_at_start_parks_its_rows() {
    let mut lanes = lanes(10);
    lanes.hold("order", "1");
    assert_eq!(lanes.push(row(2, Some(1)), STRICT), Pushed::Behind);
}
