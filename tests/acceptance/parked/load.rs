//! Messages are retried while others are being written and published: none overtakes another of its key, none is lost, and
//! none is in the outbox and parked at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use barid_tests::{eventually, servers};
use uuid::Uuid;

use barid_tests::place::{Hand, Kind, PATIENCE, Place};

const KEYS: usize = 12;

/// Rows of each key.
fn rows() -> usize {
    if servers::long() { 1_000 } else { 100 }
}

/// Writes the rows of some keys one after the other, every tenth of them for the queue that is missing at first.
async fn write(place: Arc<Place>, keys: Vec<usize>) {
    let (there, missing) = (format!("queue:{}", place.there), format!("queue:{}", place.missing));
    for row in 0..rows() {
        for key in &keys {
            let to = if (row + key) % 10 == 3 { &missing } else { &there };
            place.insert(&Hand::new(to, &key.to_string(), &row.to_string())).await;
        }
    }
}

/// One statement sees one state of the database: no message is in both tables in any of them.
async fn never_in_both(place: Arc<Place>, done: Arc<AtomicBool>) -> u64 {
    let both = "SELECT count(*) FROM outbox o JOIN relay_parked p ON p.id = o.id";
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        assert_eq!(place.number(both).await, 0, "a message is in the outbox and parked");
        looks += 1;
        tokio::task::yield_now().await;
    }
    looks
}

async fn retry_all(place: &Place) {
    let (code, said) = place.parked(&["retry", "--all", "--reason", "under load"]).await;
    // Six: in this moment nothing is poison.
    assert!([0, 6].contains(&code), "{said}");
}

async fn some_poison(place: &Place) {
    let poison = "SELECT count(*) FROM relay_parked WHERE state = 'poison'";
    eventually(PATIENCE, "messages are poison", async || place.number(poison).await >= 4).await;
}

async fn under_load(kind: Kind, kill: bool) {
    let place = Arc::new(Place::new(kind).await);
    let done = Arc::new(AtomicBool::new(false));
    let (mut first, mut second) = (place.relay(), None);
    first.line_with("claimed the outbox", PATIENCE).await;
    if kill {
        let mut standby = place.relay();
        standby.line_with("waiting for it to stop", PATIENCE).await;
        second = Some(standby);
    }
    let looking = tokio::spawn(never_in_both(place.clone(), done.clone()));
    let keys: Vec<usize> = (0..KEYS).collect();
    let writers: Vec<_> =
        keys.chunks(3).map(|keys| tokio::spawn(write(place.clone(), keys.to_vec()))).collect();

    some_poison(&place).await;
    // Nothing is repaired yet: they come back, and hold their keys again.
    retry_all(&place).await;
    some_poison(&place).await;
    place.declare(&place.missing).await;
    retry_all(&place).await;
    let relay = match second {
        Some(second) => {
            first.kill().await;
            second
        }
        None => first,
    };
    for writer in writers {
        writer.await.unwrap();
    }
    while place.number("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM relay_parked)").await > 0
    {
        retry_all(&place).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(looking.await.unwrap() > 0);
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success(), "{}", log.join("\n"));
    check(&place, kill).await;
}

/// Everything came, in order, and more than once only where somebody was killed.
async fn check(place: &Place, killed: bool) {
    let kind = place.kind;
    let copies = if kind == Kind::Postgres {
        // Two queues of a broker, which has no order between them.
        let mut copies = place.drained(&place.missing).await;
        in_order(&copies);
        let there = place.drained(&place.there).await;
        in_order(&there);
        copies.extend(there);
        copies
    } else {
        let copies = place.queued().await;
        in_order(&copies);
        copies
    };
    let mut by_id: HashMap<Uuid, usize> = HashMap::new();
    for copy in &copies {
        *by_id.entry(copy.id).or_default() += 1;
    }
    assert_eq!(by_id.len(), KEYS * rows(), "{kind:?}: nothing is lost");
    let most = if killed { 2 } else { 1 };
    assert!(by_id.values().all(|copies| *copies <= most), "{kind:?}: more than {most} copies of a message");
}

/// Panics when the first copies of a key are out of order.
fn in_order(copies: &[barid_tests::place::Copy]) {
    let (mut seen, mut last) = (std::collections::HashSet::new(), HashMap::new());
    for copy in copies.iter().filter(|copy| seen.insert(copy.id)) {
        let number: i64 = copy.body.parse().unwrap();
        let before = last.insert(copy.key.clone(), number).unwrap_or(-1);
        assert!(before < number, "{number} came after {before} of key {}", copy.key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_with_a_kill() {
    under_load(Kind::Postgres, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    under_load(Kind::MariaDb, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_with_a_kill() {
    under_load(Kind::MariaDb, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    under_load(Kind::Sqlite, false).await;
}
