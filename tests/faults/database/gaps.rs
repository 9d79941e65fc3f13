//! Positions that become visible late, or never. (SQLite has one writer at a time: there the order of the positions is the
//! order of the commits.)

use barid_tests::{
    eventually,
    ledger::Fault,
    load,
    outbox::{Database, Posted},
    rig::{PATIENCE, Rig},
    sql::Session,
};

use super::{postgres::post, rounds};

/// A transaction takes a position and commits after a later position was published.
async fn a_late_commit(database: Database) {
    let rig = Rig::of(database).await;
    let mut slow = Session::connect(&rig.outbox.url).await.unwrap();
    let mut quick = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for round in 1..=2 * i64::try_from(rounds()).unwrap() {
        slow.begin().await.unwrap();
        let late = Posted { key: 1_000, n: round };
        load::insert(&mut slow, late, &rig.tape.destination).await.unwrap();
        let early = slow.number("SELECT max(seq) FROM outbox WHERE aggregateid = '1000'").await.unwrap();
        let id = post(&mut quick, &rig, 1_001, round).await;
        eventually(PATIENCE, "the later row is published and deleted", || async {
            !rig.outbox.waiting().await.contains(&id)
        })
        .await;
        slow.execute("COMMIT").await.unwrap();
        let evidence = format!("position {early} was committed after a later one had been published");
        faults.push(Fault::new("a transaction committed late", evidence));
    }
    load.more(50).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f17_a_late_commit_on_postgres() {
    a_late_commit(Database::Postgres).await;
}

#[tokio::test]
async fn f17_a_late_commit_on_mariadb() {
    a_late_commit(Database::MariaDb).await;
}

/// Positions that were taken and rolled back are waited for by nobody.
async fn a_gap(database: Database) {
    let rig = Rig::of(database).await;
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for round in 1..=i64::try_from(rounds()).unwrap() {
        db.begin().await.unwrap();
        for n in 1..=100 {
            load::insert(&mut db, Posted { key: 2_000, n }, &rig.tape.destination).await.unwrap();
        }
        let taken = "SELECT count(DISTINCT seq) FROM outbox WHERE aggregateid = '2000'";
        assert_eq!(db.number(taken).await.unwrap(), 100);
        let last = db.number("SELECT max(seq) FROM outbox WHERE aggregateid = '2000'").await.unwrap();
        db.execute("ROLLBACK").await.unwrap();
        let id = post(&mut db, &rig, 2_001, round).await;
        eventually(PATIENCE, "the row behind the gap is published and deleted", || async {
            !rig.outbox.waiting().await.contains(&id)
        })
        .await;
        let evidence = format!("100 positions up to {last} were rolled back");
        faults.push(Fault::new("a transaction left a gap", evidence));
    }
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f18_a_gap_on_postgres() {
    a_gap(Database::Postgres).await;
}

#[tokio::test]
async fn f18_a_gap_on_mariadb() {
    a_gap(Database::MariaDb).await;
}

#[tokio::test]
async fn f18_a_gap_on_sqlite() {
    a_gap(Database::Sqlite).await;
}
