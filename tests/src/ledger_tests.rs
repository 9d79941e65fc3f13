//! A ledger that could not fail would prove nothing: each fault shows in its own count.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Two keys with ten rows each, one row rolled back, one row published twice by a fault.
fn honest() -> Evidence {
    let committed: Vec<_> =
        (0..20).map(|at| (Uuid::now_v7(), Posted { key: at % 2, n: at / 2 + 1 })).collect();
    let copy = |(id, event): &(Uuid, Posted)| Copy { id: *id, event: *event, marks: 0 };
    let mut tape: Vec<_> = committed.iter().map(copy).collect();
    tape.push(tape[3].clone());
    let journal = Journal {
        committed: committed.iter().map(|(id, _)| *id).collect(),
        rolled_back: HashSet::from([Uuid::now_v7()]),
        ..Journal::default()
    };
    let faults = vec![Fault::new("the relay was killed", "signal 9")];
    let (parked, drained) = (Vec::new(), Duration::from_secs(1));
    Evidence { committed, journal, tape, parked, left: 0, window: 4, faults, drained }
}

fn fails(spoil: impl FnOnce(&mut Evidence)) -> Ledger {
    let mut evidence = honest();
    spoil(&mut evidence);
    let ledger = evidence.ledger();
    let asserted = catch_unwind(AssertUnwindSafe(|| ledger.assert_promises()));
    assert!(asserted.is_err(), "not noticed:\n{ledger}");
    ledger
}

#[test]
fn an_honest_run_passes() {
    honest().ledger().assert_promises();
}

#[test]
fn each_broken_promise_is_noticed() {
    assert_eq!(fails(|run| run.tape.retain(|copy| copy.event.n != 5)).lost, 2);
    let phantom = |run: &mut Evidence| {
        let id = *run.journal.rolled_back.iter().next().unwrap();
        run.tape.push(Copy { id, event: Posted { key: 1, n: 100 }, marks: 0 });
    };
    assert_eq!(fails(phantom).phantom, 1);
    assert_eq!(fails(|run| run.tape.push(run.tape[3].clone())).unexplained, 1);
    assert_eq!(fails(|run| run.tape.swap(4, 6)).order_breaks, 1);
    assert_eq!(fails(|run| run.left = 1).left, 1);
    assert_eq!(fails(|run| run.committed.truncate(19)).forgotten, 1);
    assert_eq!(fails(|run| run.window = 0).duplicates_max, 0);
}

#[test]
fn a_parked_row_is_not_lost() {
    let mut run = honest();
    run.parked.push(run.tape.remove(19).id);
    run.ledger().assert_promises();
}

#[test]
fn a_fault_without_evidence_proves_nothing() {
    fails(|run| run.faults.clear());
    fails(|run| run.faults[0].evidence.clear());
    fails(|run| run.journal.rolled_back.clear());
}
