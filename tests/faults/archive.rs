//! The relay archives what it publishes, and dies under load at each place where that hurts: each message is published, and is in
//! the archive once. Who has lost the source archives nothing.

#![allow(clippy::unwrap_used)] // a test

use std::{collections::HashMap, os::unix::process::ExitStatusExt};

use barid_relay::{
    failpoint::{Point, VARIABLE},
    lane::RowId,
    lease::Epoch,
    source::open,
};
use barid_tests::{
    Process,
    dice::Dice,
    eventually,
    ledger::{Fault, order_breaks},
    outbox::{Database, Outbox},
    rig::{HELD_MAX, PATIENCE, Rig},
    servers, sql,
    tape::Tape,
};
use uuid::Uuid;

/// From the answer of the broker to what follows from it.
const POINTS: [Point; 3] =
    [Point::AfterPublishBeforeConfirm, Point::AfterConfirmBeforeMark, Point::AfterMarkBeforeCommit];

/// How often the process dies at each place, and in the middle of anything.
fn loops() -> usize {
    if servers::long() { 200 } else { 2 }
}

async fn dies_under_load(mut rig: Rig, seed: u64) {
    rig.source_lines = "after = \"archive\"".to_owned();
    let mut load = rig.load();
    load.seed = seed;
    let load = load.start().await;
    let (mut faults, mut dice) = (Vec::new(), Dice::new(seed));
    for _ in 0..loops() {
        for point in POINTS {
            let at = format!("{}:{}", point.name(), 1 + dice.below(8));
            let mut relay = Process::start(rig.relay_command().env(VARIABLE, &at));
            let status = relay.ended(PATIENCE).await;
            assert_eq!(status.signal(), Some(6), "{at}, seed {seed}: {status}\n{}", relay.log().join("\n"));
            faults.push(Fault::new(at, status));
        }
        let before = rig.outbox.archived().await.len();
        let relay = rig.relay_at_work().await;
        let more = before + 20 + usize::try_from(dice.below(100)).unwrap();
        eventually(PATIENCE, "rows are archived", async || rig.outbox.archived().await.len() > more).await;
        let log = relay.kill().await;
        let claimed = log.into_iter().find(|line| line.contains("claimed the outbox")).unwrap();
        faults.push(Fault::new(format!("killed after {more} rows"), claimed));
    }
    let relay = rig.relay_at_work().await;
    load.more(100).await;
    let journal = load.stop().await;
    rig.drained().await;
    let numbers: HashMap<Uuid, _> = rig.outbox.committed().await.into_iter().collect();
    let archived = rig.outbox.archived().await;
    let mut once = archived.clone();
    once.sort_unstable();
    once.dedup();
    println!(
        "seed {seed}: {} committed, {} archived, {} different",
        numbers.len(),
        archived.len(),
        once.len()
    );
    assert!(once.len() == archived.len() && once.iter().all(|id| numbers.contains_key(id)), "each once");
    assert_eq!(once.len(), numbers.len(), "each that was committed");
    let breaks = order_breaks(archived.iter().map(|id| (*id, numbers[id].key, numbers[id].n)));
    assert_eq!(breaks, 0, "in the order of the keys");
    rig.settle_with(journal, relay, HELD_MAX, faults).await.assert_promises();
}

#[tokio::test]
async fn a_relay_that_archives_dies_on_postgres() {
    dies_under_load(Rig::of(Database::Postgres).await, 417).await;
}

#[tokio::test]
async fn a_relay_that_archives_dies_on_mariadb() {
    dies_under_load(Rig::of(Database::MariaDb).await, 418).await;
}

#[tokio::test]
async fn a_relay_that_archives_dies_on_sqlite() {
    // The queue is in another file: whoever reads the outbox never waits for whoever publishes.
    let queue = Outbox::new(Database::Sqlite).await;
    let rig = Rig::new(Outbox::new(Database::Sqlite).await, Tape::sql(&queue.url).await);
    dies_under_load(rig, 419).await;
    queue.drop_now().await;
}

/// The owner was stopped between the confirm and the archive, and another one took over.
#[tokio::test]
async fn who_has_lost_the_source_archives_and_removes_nothing() {
    for database in Database::ALL {
        let outbox = Outbox::new(database).await;
        let name = if database == Database::MariaDb { "`type`" } else { "type" };
        let (here, gone) = (Uuid::now_v7(), Uuid::now_v7());
        let id = match database {
            Database::Postgres => format!("'{here}'"),
            _ => format!("x'{}'", here.simple()),
        };
        let row = format!(
            "INSERT INTO outbox (seq, id, destination, aggregatetype, aggregateid, {name}) \
             VALUES (7, {id}, 'queue:a', 'order', 'a', 'm')"
        );
        let archived = |at: &str| {
            format!(
                "INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, {name}, headers, \
                 published_at) VALUES ('load', {id}, 1, {at}, 'queue:a', 'order', 'm', '{{}}', {at})"
            )
        };
        let (long_ago, now) = match database {
            Database::Postgres => ("'2001-01-01'", "now()"),
            Database::MariaDb => ("'2001-01-01'", "UTC_TIMESTAMP(6)"),
            Database::Sqlite => ("1", "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
        };
        let owner = "INSERT INTO relay_source (source, epoch, owner) VALUES ('load', 2, 'another')";
        for statement in [&row, &archived(long_ago), &archived(now), owner] {
            sql::execute(&outbox.pool, statement).await.unwrap();
        }
        let count = async |query: &str| sql::number(&outbox.pool, query).await.unwrap();
        let counts = async || {
            (count("SELECT count(*) FROM outbox").await, count("SELECT count(*) FROM relay_archive").await)
        };
        let mut writer = open::source("load", &outbox.pool).writer().await.unwrap();
        let rows = [RowId { seq: 7, id: here }, RowId { seq: 7, id: gone }, RowId { seq: 8, id: here }];
        let hour = std::time::Duration::from_secs(3_600);

        let refused = writer.archive(Epoch(1), &rows).await.unwrap_err();
        assert!(refused.is_fenced() && refused.to_string().contains("another"), "{database:?}: {refused}");
        let refused = writer.expire(Epoch(1), hour, 0).await.unwrap_err();
        assert!(refused.is_fenced(), "{database:?}: {refused}");
        assert_eq!(counts().await, (1, 2), "{database:?}: nothing was done");

        // The owner archives what is there, and only that, however often; and removes what is old.
        assert_eq!(writer.archive(Epoch(2), &rows).await.unwrap(), 1, "{database:?}");
        assert_eq!(writer.archive(Epoch(2), &rows).await.unwrap(), 0, "{database:?}");
        assert_eq!(counts().await, (0, 3), "{database:?}");
        let expired = writer.expire(Epoch(2), hour, 0).await.unwrap();
        assert_eq!((expired.removed, expired.after, expired.more), (1, 1, false), "{database:?}");
        assert_eq!(counts().await, (0, 2), "{database:?}");
        drop(writer);
        outbox.drop_now().await;
    }
}
