//! The relay's process dies at each place where it hurts, or has a wrong clock: rows F34 and F33 of the fault table.
//!
//! The places are those of `barid_relay::failpoint`. The two that belong to an application, before and after the COMMIT of its
//! unit of work, are in `process/unit_of_work.rs`. The three of two-phase commit come with the distributed transactions.

#![allow(clippy::unwrap_used)] // a test

#[path = "process/clock.rs"]
mod clock;
#[path = "process/unit_of_work.rs"]
mod unit_of_work;

use std::{os::unix::process::ExitStatusExt, time::Duration};

use barid_relay::failpoint::{Point, VARIABLE};
use barid_tests::{
    Process,
    dice::Dice,
    ledger::Fault,
    outbox::{Database, Outbox},
    rig::{HELD_MAX, PATIENCE, Rig},
    servers,
    tape::Tape,
};

/// How often the process dies at each place.
fn loops() -> usize {
    if servers::long() { 1_000 } else { 10 }
}

/// Lets the process die at every place, again and again, while rows are committed.
async fn dies_everywhere(mut rig: Rig, seed: u64) {
    // The shortest lease, so that its renewal is soon.
    rig.relay_lines = "lease_ms = 1000".to_owned();
    let mut load = rig.load();
    (load.seed, load.rest) = (seed, Duration::from_millis(10));
    let load = load.start().await;
    let (mut faults, mut dice) = (Vec::new(), Dice::new(seed));
    for point in Point::ALL {
        for _ in 0..loops() {
            let times = if point == Point::LeaseRenew { 1 } else { 1 + dice.below(8) };
            let at = format!("{}:{times}", point.name());
            let mut relay = Process::start(rig.relay_command().env(VARIABLE, &at));
            let status = relay.ended(PATIENCE).await;
            let log = relay.log();
            let line = log.iter().find(|line| line.contains("failpoint")).cloned().unwrap_or_default();
            assert_eq!(status.signal(), Some(6), "{at}, seed {seed}: {status}\n{}", log.join("\n"));
            assert!(line.contains(point.name()), "{at}: {line}");
            faults.push(Fault::new(at, format!("{status}; {line}")));
        }
    }
    let relay = rig.relay_at_work().await;
    let mut ledger = rig.settle(load, relay, HELD_MAX, faults).await;
    // A line for each death is more than anybody reads.
    println!("seed {seed}: {} deaths", ledger.faults.len());
    ledger.assert_promises();
    ledger.faults.clear();
    println!("{ledger}");
}

#[tokio::test]
async fn f34_every_failpoint_on_postgres() {
    dies_everywhere(Rig::of(Database::Postgres).await, 34).await;
}

#[tokio::test]
async fn f34_every_failpoint_on_mariadb() {
    dies_everywhere(Rig::of(Database::MariaDb).await, 35).await;
}

#[tokio::test]
async fn f34_every_failpoint_on_sqlite() {
    let outbox = Outbox::new(Database::Sqlite).await;
    // The queue is in another file: whoever reads the outbox never waits for whoever publishes.
    let queue = Outbox::new(Database::Sqlite).await;
    let tape = Tape::sql(&queue.url).await;
    dies_everywhere(Rig::new(outbox, tape), 36).await;
    queue.drop_now().await;
}
