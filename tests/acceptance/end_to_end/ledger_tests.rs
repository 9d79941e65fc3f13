//! A ledger that could not fail would prove nothing: each fault shows in its own count, and in no other.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const SHOPS: i64 = 2;
const ORDERS: i64 = 40;

/// Ten kills, each with one row in doubt that was published twice and one that was not published yet.
fn honest() -> Evidence {
    let event = |number: i64| OrderPlaced {
        number,
        shop: number % SHOPS,
        n: number / SHOPS + 1,
        attempt: Uuid::now_v7(),
    };
    let orders: Vec<_> = (0..ORDERS).map(event).collect();
    let ids: Vec<_> = orders.iter().map(|_| Uuid::now_v7()).collect();
    let (mut tape, mut kills) = (Vec::new(), Vec::new());
    for (at, two) in ids.chunks(2).take(KILLS).enumerate() {
        let [in_doubt, waiting] = [two[0], two[1]];
        let copy = |at: usize, marks: usize| Copy { id: ids[at], event: orders[at].clone(), marks };
        tape.extend([copy(2 * at, at), copy(2 * at, at + 1), copy(2 * at + 1, at + 1)]);
        let held = HashSet::from([in_doubt, waiting]);
        kills.push(Kill { signal: Some(9), deleted: 1, left: held.clone(), held });
    }
    for at in 2 * KILLS..orders.len() {
        tape.push(Copy { id: ids[at], event: orders[at].clone(), marks: KILLS });
    }
    let arrival = |copy: &Copy<OrderPlaced>| Arrival { id: copy.id, event: copy.event.clone(), again: false };
    Evidence {
        ordered: orders.len(),
        orders_tried: orders.len() + 4,
        outbox_left: 0,
        parked: 0,
        refused: 0,
        shipments: orders.clone(),
        shipments_tried: orders.len() + 4,
        arrivals: tape.iter().map(arrival).collect(),
        orders,
        tape,
        kills,
    }
}

fn kept(evidence: &Evidence) -> bool {
    let ledger = evidence.ledger();
    catch_unwind(AssertUnwindSafe(|| ledger.assert_promises())).is_ok()
}

/// The counts of L, P, D, O and E after a change.
fn counts(change: impl FnOnce(&mut Evidence)) -> [usize; 5] {
    let mut evidence = honest();
    change(&mut evidence);
    let Ledger { lost, phantom, unexplained, order_breaks, effects_twice, .. } = evidence.ledger();
    let counts = [lost, phantom, unexplained, order_breaks, effects_twice];
    assert_eq!(kept(&evidence), counts == [0; 5], "{counts:?}");
    counts
}

#[test]
fn an_honest_ledger_is_accepted() {
    assert_eq!(counts(|_| ()), [0; 5]);
}

#[test]
fn each_fault_shows_in_its_own_count() {
    let lost = |change: fn(&mut Evidence)| assert_eq!(counts(change), [1, 0, 0, 0, 0]);
    lost(|evidence| evidence.shipments.truncate(evidence.orders.len() - 1));
    lost(|evidence| evidence.outbox_left = 1);
    lost(|evidence| evidence.parked = 1);
    lost(|evidence| evidence.refused = 1);
    let rolled_back = Uuid::now_v7();
    assert_eq!(counts(|evidence| evidence.arrivals[0].event.attempt = rolled_back), [0, 1, 0, 0, 0]);
    assert_eq!(counts(|evidence| evidence.tape[0].event.attempt = rolled_back), [0, 1, 0, 0, 0]);
    let third = |evidence: &mut Evidence| evidence.tape.insert(1, evidence.tape[0].clone());
    assert_eq!(counts(third), [0, 0, 1, 0, 0]);
    let last = honest().tape.len() - 1;
    assert!(counts(|evidence| evidence.tape.swap(last, last - 2))[3] > 0);
    assert!(counts(|evidence| evidence.arrivals.swap(last, last - 2))[3] > 0);
    assert_eq!(counts(|evidence| evidence.arrivals.swap(last, last - 1)), [0; 5], "another shop's");
    assert_eq!(counts(|evidence| evidence.shipments.push(evidence.shipments[0].clone())), [0, 0, 0, 0, 1]);
}

#[test]
fn a_story_without_its_faults_is_refused() {
    let refused = |change: fn(&mut Evidence)| {
        let mut evidence = honest();
        change(&mut evidence);
        assert!(!kept(&evidence), "{}", evidence.ledger());
    };
    refused(|evidence| evidence.kills.truncate(KILLS - 1));
    refused(|evidence| evidence.kills[3].signal = Some(15));
    refused(|evidence| evidence.kills[3].held.clear());
    // The broker had all of it before the kill: nothing was unconfirmed for certain.
    refused(|evidence| evidence.tape.iter_mut().for_each(|copy| copy.marks = 0));
    refused(|evidence| evidence.kills[3].deleted = 0);
    refused(|evidence| evidence.orders_tried = evidence.orders.len());
    refused(|evidence| evidence.shipments_tried = evidence.shipments.len());
    refused(|evidence| {
        let mut seen = HashSet::new();
        evidence.tape.retain(|copy| seen.insert(copy.id));
    });
}
