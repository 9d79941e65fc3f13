//! The cases worth naming.

use std::time::{Duration, Instant};

use barid::Destination;
use bytes::Bytes;
use uuid::Uuid;

use super::*;

pub(super) const SINKS: usize = 2;

pub(super) fn row(seq: i64, key: Option<u8>) -> OutgoingRow {
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
        wire: None,
    }
}

pub(super) fn lanes(rows_max: usize) -> Lanes {
    let window = Window { rows_max, bytes_max: 1 << 20 };
    Lanes::new(&[window; SINKS], Backoff::new(Duration::from_millis(1), Duration::from_millis(50), 1))
}

const STRICT: Way = Way { sink: 0, order: Order::Strict, poison: Poison::BlockKey };
const PIPELINED: Way = Way { order: Order::Pipelined, ..STRICT };

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
fn a_row_before_the_failed_one_breaks_no_order() {
    let (mut lanes, now) = (lanes(3), Instant::now());
    for seq in 1..=3 {
        lanes.push(row(seq, Some(1)), PIPELINED);
    }
    let started = start(&mut lanes, 0);
    lanes.settle(started[2].1, Outcome::Unknown("lost".to_owned()), now);
    lanes.settle(started[1].1, Outcome::Confirmed, now);
    lanes.settle(started[0].1, Outcome::Confirmed, now);
    assert_eq!(lanes.stats().breaks, 0);
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
    // Nobody can tell whether the row is still there, and deleting it again does no harm.
    let again = lanes.take_deletes(10);
    assert_eq!(again.len(), 1);
    lanes.read_finished();
    assert_eq!(lanes.rows(), 1, "it is known until it is answered");
    lanes.gone(again);
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
fn what_becomes_of_a_row_that_fits_no_format_is_what_its_route_says() {
    let id = |seq| RowId { seq, id: Uuid::nil() };
    let key = Some(("order", "1"));
    let unfit = |lanes: &mut Lanes, seq, way| lanes.push_unfit(id(seq), key, way, "no text".to_owned());
    let mut lanes = lanes(10);
    assert_eq!(unfit(&mut lanes, 1, Way { poison: Poison::Skip, ..STRICT }), Pushed::New);
    assert_eq!(unfit(&mut lanes, 1, Way { poison: Poison::Skip, ..STRICT }), Pushed::Known);
    assert_eq!(lanes.push(row(2, Some(1)), STRICT), Pushed::New);
    assert_eq!(unfit(&mut lanes, 3, Way { order: Order::None, ..STRICT }), Pushed::New);
    assert_eq!(unfit(&mut lanes, 4, STRICT), Pushed::New);
    assert_eq!(unfit(&mut lanes, 5, Way { poison: Poison::Skip, ..STRICT }), Pushed::Behind);
    let parks: Vec<_> = lanes.take_parks(10).into_iter().map(|park| (park.row.seq, park.state)).collect();
    let (skipped, poison) = (ParkState::Skipped, ParkState::Poison);
    assert_eq!(parks, [(1, skipped), (3, skipped), (4, poison), (5, ParkState::Behind)]);
    unfit(&mut lanes, 6, Way { poison: Poison::Halt, ..STRICT });
    assert!(lanes.halted().is_some_and(|halted| halted.row.seq == 6 && halted.reason.contains("no text")));
}

#[test]
fn a_key_held_at_start_parks_its_rows() {
    let mut lanes = lanes(10);
    lanes.hold("order", "1", 0);
    assert_eq!(lanes.push(row(2, Some(1)), STRICT), Pushed::Behind);
}

#[test]
fn a_route_that_skips_goes_on_with_the_key() {
    let mut lanes = lanes(10);
    let way = Way { poison: Poison::Skip, ..STRICT };
    lanes.push(row(1, Some(1)), way);
    lanes.push(row(2, Some(1)), way);
    let first = start(&mut lanes, 0);
    lanes.settle(first[0].1, Outcome::Permanent("too large".to_owned()), Instant::now());
    let parks: Vec<_> = lanes.take_parks(10).into_iter().map(|park| (park.row.seq, park.state)).collect();
    assert_eq!(parks, [(1, ParkState::Skipped)]);
    assert_eq!(seqs(&start(&mut lanes, 0)), [2]);
    assert_eq!((lanes.held(), lanes.push(row(3, Some(1)), way)), (0, Pushed::New));
}

#[test]
fn a_route_that_halts_leaves_everything_where_it_is() {
    let mut lanes = lanes(10);
    let way = Way { poison: Poison::Halt, ..STRICT };
    for (seq, key) in [(1, 1), (2, 1), (3, 2)] {
        lanes.push(row(seq, Some(key)), way);
    }
    let started = start(&mut lanes, 0);
    lanes.settle(started[0].1, Outcome::Permanent("too large".to_owned()), Instant::now());
    let halted = lanes.halted().unwrap();
    assert!(halted.row.seq == 1 && halted.reason.contains("too large"), "{halted:?}");
    lanes.settle(started[1].1, Outcome::Confirmed, Instant::now());
    assert_eq!((lanes.parks_waiting(), seqs(&start(&mut lanes, 0)).len()), (0, 0));
    assert_eq!(lanes.take_deletes(10).iter().map(|row| row.seq).collect::<Vec<_>>(), [3]);
}

#[test]
fn more_held_keys_than_allowed_halt() {
    let mut lanes = lanes(10).held_max(2);
    for seq in 1..=3 {
        assert!(lanes.halted().is_none(), "{seq}");
        let key = seq.to_string();
        lanes.push_refused(RowId { seq, id: Uuid::nil() }, Some(("order", &key)), "no route".to_owned());
    }
    assert!(lanes.halted().unwrap().reason.contains("3 keys are held"));
}

const SHARE: Share = Share { rows_max: 2, bytes_max: 1 << 20 };

fn seqs_left_out(lanes: &Lanes) -> Vec<i64> {
    lanes.left_out().map(|left_out| left_out.from).collect()
}

#[test]
fn a_strict_key_takes_its_share_and_is_read_again() {
    let (mut lanes, now) = (lanes(10).share(SHARE), Instant::now());
    let pushed: Vec<_> = (1..=5).map(|seq| lanes.push(row(seq, Some(1)), STRICT)).collect();
    assert_eq!(pushed, [Pushed::New, Pushed::New, Pushed::LeftOut, Pushed::LeftOut, Pushed::LeftOut]);
    assert_eq!((lanes.rows(), seqs_left_out(&lanes)), (2, vec![3]));
    assert_eq!(lanes.push(row(6, Some(2)), STRICT), Pushed::New, "other keys have shares of their own");
    assert!(lanes.again().is_none(), "there is no room yet");
    let started = start(&mut lanes, 0);
    assert_eq!(seqs(&started), [1, 6]);
    lanes.settle(started[0].1, Outcome::Confirmed, now);
    let again = lanes.again().unwrap();
    assert_eq!((again.left_out.from, again.left_out.aggregateid.as_str(), again.rows_max), (3, "1", 1));
    // The outbox shows row 3, and that was all there was room for.
    lanes.readmit(&again.left_out);
    assert_eq!(lanes.push(row(3, Some(1)), STRICT), Pushed::New);
    lanes.leave_out(LeftOut { from: 4, ..again.left_out });
    assert_eq!(lanes.push(row(7, Some(1)), STRICT), Pushed::LeftOut, "rows before it were left out");
    let mut sent = Vec::new();
    for rest in [&[4][..], &[5, 7], &[]] {
        let started = start(&mut lanes, 0);
        sent.extend(seqs(&started));
        started.iter().for_each(|(_, token)| lanes.settle(*token, Outcome::Confirmed, now));
        while let Some((token, row)) = lanes.ready(0) {
            sent.push(row.seq);
            lanes.started(token);
            lanes.settle(token, Outcome::Confirmed, now);
        }
        let again = lanes.again().unwrap();
        lanes.readmit(&again.left_out);
        for seq in rest {
            lanes.push(row(*seq, Some(1)), STRICT);
        }
        if let Some(last) = rest.last() {
            lanes.leave_out(LeftOut { from: last + 1, ..again.left_out });
        }
    }
    assert_eq!((sent, lanes.again()), (vec![2, 3, 4, 5, 7], None));
}

#[test]
fn a_pipelined_key_has_no_bound_until_it_stops() {
    let (mut lanes, now) = (lanes(3).share(SHARE), Instant::now());
    assert!((1..=6).all(|seq| lanes.push(row(seq, Some(1)), PIPELINED) == Pushed::New));
    let started = start(&mut lanes, 0);
    assert_eq!(seqs(&started), [1, 2, 3]);
    lanes.settle(started[0].1, Outcome::Transient("busy".to_owned()), now);
    assert_eq!((lanes.rows(), seqs_left_out(&lanes)), (3, vec![4]), "what was sent stays");
    assert_eq!(lanes.push(row(7, Some(1)), PIPELINED), Pushed::LeftOut);
    assert_eq!(lanes.stats().left_out, 4);
}

#[test]
fn a_share_counts_bytes_and_lets_one_large_row_in() {
    let mut lanes = lanes(10).share(Share { rows_max: 100, bytes_max: 5 });
    assert_eq!(lanes.push(row(1, Some(1)), STRICT), Pushed::New);
    assert_eq!(lanes.push(row(2, Some(1)), STRICT), Pushed::LeftOut);
    let started = start(&mut lanes, 0);
    lanes.settle(started[0].1, Outcome::Confirmed, Instant::now());
    assert_eq!(lanes.again().map(|again| (again.left_out.from, again.bytes_max)), Some((2, 5)));
}

#[test]
fn rows_that_are_left_out_behind_a_parked_one_are_parked_once_they_are_read() {
    let mut lanes = lanes(10).share(SHARE);
    for seq in 1..=3 {
        lanes.push(row(seq, Some(1)), STRICT);
    }
    let started = start(&mut lanes, 0);
    lanes.settle(started[0].1, Outcome::Permanent("too large".to_owned()), Instant::now());
    let again = lanes.again().unwrap();
    lanes.readmit(&again.left_out);
    assert_eq!(lanes.push(row(3, Some(1)), STRICT), Pushed::Behind);
    let parks: Vec<_> = lanes.take_parks(10).into_iter().map(|park| park.row.seq).collect();
    assert_eq!(parks, [1, 2, 3]);
}
