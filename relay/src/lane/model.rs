//! Random schedules against a model that is too simple to be wrong.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use uuid::Uuid;

use super::{
    broken::Broken,
    tests::{SINKS, lanes, row},
    *,
};
use again::ReadingAgain;
use ops::{Op, op};

mod again;
mod ops;

/// Schedules of one test run, over all order modes.
pub(super) const SCHEDULES: u32 = 10_000;
/// What the sinks have room for.
const WINDOW_ROWS: usize = 5;
/// Keys that may be held; of four there are.
const HELD_MAX: usize = 2;
/// The key that is held from an earlier run, and the position from which on it is.
const HELD_BEFORE: (u8, i64) = (3, 12);
/// The shortest pause of [`lanes`].
const PAUSE_MIN: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Queued,
    InFlight,
    Done,
}

/// What the model remembers of a row.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: Option<u8>,
    way: Way,
    is: Is,
    /// Whether the last answer for it was a negative one, and when that was.
    failed: Option<Instant>,
    confirmed: bool,
}

struct Model {
    lanes: Lanes,
    rows: Vec<Known>,
    in_flight: Vec<(usize, Token)>,
    answered: Vec<Token>,
    parked: HashMap<i64, ParkState>,
    /// Whether any row was refused.
    refused: bool,
    deleted: HashSet<i64>,
    /// The rows that were gone when the read that is under way began.
    reading: Option<HashSet<i64>>,
    again: Option<ReadingAgain>,
    now: Instant,
    order: Order,
    poison: Poison,
    held_before: bool,
}

impl Model {
    fn new(order: Order, poison: Poison, held_before: bool, broken: Option<Broken>) -> Self {
        let mut lanes = lanes(WINDOW_ROWS).held_max(HELD_MAX).share(again::SHARE);
        lanes.broken = broken;
        if held_before {
            lanes.hold("order", &HELD_BEFORE.0.to_string(), HELD_BEFORE.1);
        }
        Self {
            lanes,
            rows: Vec::new(),
            in_flight: Vec::new(),
            answered: Vec::new(),
            parked: HashMap::new(),
            refused: false,
            deleted: HashSet::new(),
            reading: None,
            again: None,
            now: Instant::now(),
            order,
            poison,
            held_before,
        }
    }

    /// Whether this row waits behind one that was parked in an earlier run.
    fn behind_before(&self, key: Option<u8>, seq: i64) -> bool {
        self.held_before && self.order != Order::None && key == Some(HELD_BEFORE.0) && seq > HELD_BEFORE.1
    }

    /// The earlier rows of the key of a row, where the order matters.
    fn earlier(&self, at: usize) -> impl Iterator<Item = (usize, &Known)> {
        let key = self.rows[at].key.filter(|_| self.order != Order::None);
        let same = move |(_, other): &(usize, &Known)| key.is_some() && other.key == key;
        self.rows[..at].iter().enumerate().filter(same)
    }

    fn start_one(&mut self, sink: usize) -> bool {
        let Some((token, row)) = self.lanes.ready(sink) else {
            self.nothing_could_start(sink);
            return false;
        };
        let at = usize::try_from(row.seq).unwrap();
        let Known { way, is, failed, .. } = self.rows[at];
        assert_eq!(is, Is::Queued, "row {at} was in flight twice or came back after it was settled");
        assert_eq!(way.sink, sink);
        assert!(
            failed.is_none_or(|at| self.now >= at + PAUSE_MIN),
            "row {at} was sent again without a pause"
        );
        for (earlier, other) in self.earlier(at) {
            let fine = match other.is {
                Is::Done => true,
                Is::InFlight => self.order == Order::Pipelined && other.way == way && other.failed.is_none(),
                Is::Queued => false,
            };
            // A row that failed and flies again does so alone or before the ones behind it.
            let again = other.is == Is::InFlight && self.order == Order::Pipelined && other.way == way;
            assert!(fine || again, "row {at} started while {earlier} of its key was {other:?}");
        }
        self.lanes.started(token);
        self.rows[at].is = Is::InFlight;
        self.in_flight.push((at, token));
        let flying = self.in_flight.iter().filter(|(at, _)| self.rows[*at].way.sink == sink).count();
        assert!(flying <= WINDOW_ROWS, "{flying} rows in flight on sink {sink}");
        true
    }

    /// With room in the window, a row waits only for the earlier rows of its key, or because one of them or itself failed.
    fn nothing_could_start(&self, sink: usize) {
        let flying = self.in_flight.iter().filter(|(at, _)| self.rows[*at].way.sink == sink).count();
        if flying >= WINDOW_ROWS {
            return;
        }
        for (at, row) in self.rows.iter().enumerate() {
            let waits = row.failed.is_some()
                || self.is_left_out(at)
                || self.earlier(at).any(|(_, other)| other.is != Is::Done);
            assert!(row.is != Is::Queued || row.way.sink != sink || waits, "row {at} waits for nothing");
        }
    }

    fn settle(&mut self, at: usize, token: Token, outcome: Outcome) {
        let row = &mut self.rows[at];
        row.confirmed = outcome == Outcome::Confirmed;
        (row.is, row.failed) = match &outcome {
            Outcome::Confirmed | Outcome::Permanent(_) => (Is::Done, None),
            _ => (Is::Queued, Some(self.now)),
        };
        self.refused |= matches!(outcome, Outcome::Permanent(_));
        self.answered.push(token);
        self.lanes.settle(token, outcome, self.now);
        self.collect();
    }

    /// Whether the lanes halted, and that they do so when they must and at no other time.
    fn halts(&self) -> bool {
        let mut held: HashSet<_> =
            self.parked_as(ParkState::Poison).filter_map(|at| self.rows[at].key).collect();
        held.extend(self.held_before.then_some(HELD_BEFORE.0));
        let must = match self.poison {
            Poison::Halt => self.refused,
            _ => self.order != Order::None && held.len() > HELD_MAX,
        };
        assert_eq!(self.lanes.halted().is_some(), must, "{:?}", self.lanes.halted());
        let none = self.parked.values().all(|state| *state == ParkState::Behind);
        assert!(self.poison != Poison::Halt || none, "a row was parked instead");
        must
    }

    fn parked_as(&self, state: ParkState) -> impl Iterator<Item = usize> {
        let parked = self.parked.iter().filter(move |(_, is)| **is == state);
        parked.map(|(seq, _)| usize::try_from(*seq).unwrap())
    }

    /// Parked and deleted rows are done; every row is one of them at most once.
    fn collect(&mut self) {
        for park in self.lanes.take_parks(usize::MAX) {
            let at = usize::try_from(park.row.seq).unwrap();
            assert_ne!(self.rows[at].is, Is::InFlight, "row {at} was parked in flight");
            assert!(!self.rows[at].confirmed, "row {at} was parked and confirmed");
            self.rows[at].is = Is::Done;
            let unordered = self.order == Order::None && self.rows[at].key.is_some();
            let skips = self.poison == Poison::Skip && park.state != ParkState::Behind || unordered;
            assert_eq!(park.state == ParkState::Skipped, skips, "row {at} is parked as {:?}", park.state);
            assert!(self.parked.insert(park.row.seq, park.state).is_none());
            self.lanes.gone([park.row]);
        }
    }

    fn delete(&mut self) {
        let rows = self.lanes.take_deletes(3);
        for id in &rows {
            assert!(self.deleted.insert(id.seq), "row {} was deleted twice", id.seq);
            assert!(
                self.rows[usize::try_from(id.seq).unwrap()].confirmed,
                "row {} was not confirmed",
                id.seq
            );
        }
        self.lanes.gone(rows);
    }

    fn push(&mut self, key: Option<u8>, sink: usize) {
        let way = Way { sink, order: self.order, poison: self.poison };
        self.rows.push(Known { key, way, is: Is::Queued, failed: None, confirmed: false });
        self.show(self.rows.len() - 1);
    }

    /// A read may show again what was still there when it began, and what a crash brought back: then it has to go once more.
    fn push_again(&mut self, pick: usize) {
        let at = pick % self.rows.len();
        let seq = i64::try_from(at).unwrap();
        let gone = match &self.reading {
            Some(gone) => gone.contains(&seq),
            None => self.deleted.contains(&seq) || self.parked.contains_key(&seq),
        };
        if !gone {
            self.show(at);
        }
    }

    /// A read shows a row.
    fn show(&mut self, at: usize) {
        let (seq, Known { key, way, is, .. }) = (i64::try_from(at).unwrap(), self.rows[at]);
        let known = self.is_known(at);
        assert!(known || is == Is::Queued, "row {at} was forgotten too early");
        let before = |poison: usize| self.rows[poison].key == key && poison < at;
        let poisoned = key.is_some() && self.parked_as(ParkState::Poison).any(before);
        let held = self.order != Order::None && poisoned || self.behind_before(key, seq);
        let may_be_left_out = self.may_be_left_out(at);
        match self.lanes.push(row(seq, key), way) {
            Pushed::Known => assert!(known, "row {at} is known"),
            Pushed::Behind => assert!(!known && held, "row {at} waits behind nobody"),
            Pushed::New => assert!(!known && !held, "row {at} is new"),
            Pushed::LeftOut => {
                assert!(!known && !held && may_be_left_out, "row {at} was left out, and there was room");
            }
        }
        if known {
            self.deleted.remove(&seq);
            self.parked.remove(&seq);
        }
        self.collect();
    }

    fn read(&mut self) {
        self.reading = match self.reading.take() {
            Some(_) => {
                self.lanes.read_finished();
                None
            }
            None => {
                self.lanes.read_started();
                Some(self.deleted.iter().chain(self.parked.keys()).copied().collect())
            }
        };
    }

    fn run(&mut self, op: &Op) {
        // There is one read at a time.
        if matches!(op, Op::Push { .. } | Op::PushAgain { .. } | Op::Read) {
            self.end_reading_again();
        }
        match *op {
            Op::Push { key, sink } => self.push(key, sink),
            Op::PushAgain { pick } if !self.rows.is_empty() => self.push_again(pick),
            Op::Start { sink } => drop(self.start_one(sink)),
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
            Op::SettleAgain { pick } if !self.answered.is_empty() => {
                let token = self.answered[pick % self.answered.len()];
                if self.in_flight.iter().all(|(_, flying)| *flying != token) {
                    self.lanes.settle(token, Outcome::Confirmed, self.now);
                }
            }
            Op::PushAgain { .. } | Op::Settle { .. } | Op::SettleAgain { .. } => {}
            Op::Advance { ms } => {
                self.now += Duration::from_millis(ms);
                self.lanes.wake(self.now);
            }
            Op::Delete => self.delete(),
            Op::Read => self.read(),
            Op::ReadAgain => self.read_again(),
        }
        assert_eq!(self.lanes.in_flight(), self.in_flight.len());
        self.shares();
    }

    /// Confirms everything that is left; nothing may be stuck and nothing lost.
    fn finish(mut self) {
        self.end_reading_again();
        if self.reading.is_some() {
            self.read();
        }
        loop {
            while (0..SINKS).any(|sink| self.start_one(sink)) {}
            if let Some((at, token)) = self.in_flight.pop() {
                self.settle(at, token, Outcome::Confirmed);
            } else if self.lanes.again().is_some() {
                self.read_again();
                self.end_reading_again();
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
        assert!(self.lanes.chains.is_empty() && self.lanes.left_out().next().is_none());
        for behind in self.parked_as(ParkState::Behind) {
            let key = self.rows[behind].key;
            let poison = |at: usize| self.rows[at].key == key && at < behind;
            let before = self.behind_before(key, i64::try_from(behind).unwrap());
            assert!(
                before || self.parked_as(ParkState::Poison).any(poison),
                "row {behind} is parked behind nobody"
            );
        }
    }
}

fn check(order: Order, poison: Poison, held_before: bool, ops: &[Op], broken: Option<Broken>) {
    let mut model = Model::new(order, poison, held_before, broken);
    for op in ops {
        model.run(op);
        if model.halts() {
            return;
        }
    }
    model.finish();
}

/// Where the schedules begin: `BARID_TEST_SEED`, or somewhere else in every run.
pub(super) fn seed() -> u64 {
    std::env::var("BARID_TEST_SEED").map_or_else(
        |_| Uuid::now_v7().as_u64_pair().1,
        |seed| seed.parse().expect("BARID_TEST_SEED is a number"),
    )
}

/// Runs that many schedules.
///
/// # Panics
/// With the seed and the shortest schedule that breaks a rule.
pub(super) fn run(schedules: u32, seed: u64, broken: Option<Broken>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // That a broken variant is noticed is enough; only a true failure is worth a shortest schedule.
    let max_shrink_iters = if broken.is_some() { 0 } else { 10_000 };
    let config =
        Config { cases: schedules, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let order = prop_oneof![2 => Just(Order::Strict), 2 => Just(Order::Pipelined), 1 => Just(Order::None)];
    let poison = prop_oneof![Just(Poison::BlockKey), Just(Poison::Skip), Just(Poison::Halt)];
    let schedule = (order, poison, prop::bool::weighted(0.2), prop::collection::vec(op(), 1..100));
    let ran = runner.run(&schedule, |(order, poison, held_before, ops)| {
        check(order, poison, held_before, &ops, broken);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("BARID_TEST_SEED={seed} breaks a rule: {error}");
    }
}

#[test]
fn no_schedule_breaks_a_rule() {
    run(SCHEDULES, seed(), None);
}
