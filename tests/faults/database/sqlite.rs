//! What other programs do to a SQLite file.

use std::path::Path;

use barid_tests::{
    eventually,
    ledger::Fault,
    outbox::Database,
    rig::{PATIENCE, Rig},
    sql::Session,
};

use super::rounds;

#[tokio::test]
async fn f24_another_writer_holds_the_file() {
    let rig = Rig::of(Database::Sqlite).await;
    let mut other = Session::connect(&rig.outbox.url).await.unwrap();
    let mut hasty = Session::connect(&rig.outbox.url).await.unwrap();
    hasty.execute("PRAGMA busy_timeout = 0").await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..rounds() {
        load.more(50).await;
        other.begin().await.unwrap();
        let busy = hasty.begin().await.unwrap_err().to_string();
        // Longer than a moment: rows that were published wait for their DELETE.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await; // the length of the fault, not a condition
        other.execute("COMMIT").await.unwrap();
        faults.push(Fault::new("another program wrote for a while", busy));
    }
    load.more(50).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

/// A reader that never ends keeps the log from being emptied. The relay is none: it can be emptied while it runs.
#[tokio::test]
async fn f27_a_long_reader_lets_the_log_grow() {
    let rig = Rig::of(Database::Sqlite).await;
    let mut reader = Session::connect(&rig.outbox.url).await.unwrap();
    let mut admin = Session::connect(&rig.outbox.url).await.unwrap();
    admin.execute("PRAGMA busy_timeout = 0").await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(50).await;
    reader.execute("BEGIN").await.unwrap();
    reader.number("SELECT count(*) FROM outbox").await.unwrap();
    load.more(300).await;
    let file =
        rig.outbox.url.strip_prefix("sqlite://").unwrap().split('?').next().unwrap().to_owned() + "-wal";
    let grown = std::fs::metadata(Path::new(&file)).unwrap().len();
    // The first column says whether somebody was in the way.
    let emptied = "PRAGMA wal_checkpoint(TRUNCATE)";
    assert_eq!(admin.number(emptied).await.unwrap(), 1, "the reader is in the way");
    reader.execute("COMMIT").await.unwrap();
    let journal = load.stop().await;
    rig.drained().await;
    for _ in 0..5 {
        // Between two polls and two DELETEs of a relay that is at work, not only at its end.
        eventually(PATIENCE, "the log can be emptied while the relay runs", || async {
            Session::connect(&rig.outbox.url).await.unwrap().number(emptied).await.unwrap() == 0
        })
        .await;
    }
    assert_eq!(std::fs::metadata(Path::new(&file)).unwrap().len(), 0, "the log is empty");
    let faults = vec![Fault::new("a reader held the log", format!("it had grown to {grown} bytes"))];
    rig.settle_with(journal, relay, 0, faults).await.assert_promises();
}
