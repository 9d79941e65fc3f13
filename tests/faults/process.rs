//! Faults of the relay's process: rows F34, F35 and F36 of the fault table, as far as signals make them.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::{
    ledger::Fault,
    outbox::{Database, Outbox},
    rig::{HELD_MAX, Rig},
    servers,
    tape::Tape,
};

/// A relay that is killed again and again while rows are committed.
async fn killed(database: Database) {
    let rig = Rig::new(Outbox::new(database).await, Tape::rabbitmq(&servers::amqp()).await);
    let load = rig.load().start().await;
    let mut faults = Vec::new();
    for _ in 0..if servers::long() { 50 } else { 4 } {
        let relay = rig.relay_at_work().await;
        load.more(200).await;
        relay.kill().await;
        faults.push(Fault::new("the relay was killed", "it ended by signal 9"));
    }
    let relay = rig.relay_at_work().await;
    load.more(100).await;
    let ledger = rig.settle(load, relay, HELD_MAX, faults).await;
    ledger.assert_promises();
}

#[tokio::test]
async fn f34_kill_9_on_postgres() {
    killed(Database::Postgres).await;
}

#[tokio::test]
async fn f34_kill_9_on_mariadb() {
    killed(Database::MariaDb).await;
}

#[tokio::test]
async fn f34_kill_9_on_sqlite() {
    killed(Database::Sqlite).await;
}
