//! What was published is archived: once, in order, by the owner alone, and for as long as it was asked for.

use super::*;
use crate::{archive::After, lease::LEASE_BOUNDS};

const HOUR: After = After::Archive { keep: Duration::from_secs(3_600) };

fn start(stage: &Stage) -> (CancellationToken, JoinHandle<Stats>) {
    // So long that only a release lets the next one begin.
    let settings = Settings { after: HOUR, lease: LEASE_BOUNDS.1, ..Settings::default() };
    let stop = CancellationToken::new();
    let running = stage.relay(settings).run_until(stop.clone().cancelled_owned());
    (stop, tokio::spawn(async { running.await.unwrap() }))
}

#[tokio::test]
async fn rows_are_archived_in_the_order_of_their_keys() {
    let stage = Stage::new().await;
    for at in 0..500 {
        stage.insert(&format!("m{at}"), Some(&(at % 7).to_string()), "queue:a").await;
    }
    let before = "SELECT id FROM outbox ORDER BY aggregateid, seq";
    let before: Vec<Uuid> = sqlx::query_scalar(before).fetch_all(&stage.pool).await.unwrap();
    let (stop, running) = start(&stage);
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    let after = "SELECT id FROM relay_archive WHERE source = 'main' AND published_at >= created_at AND payload = x'01' \
        AND destination = 'queue:a' AND headers = '{}' ORDER BY aggregateid, position";
    let after: Vec<Uuid> = sqlx::query_scalar(after).fetch_all(&stage.pool).await.unwrap();
    assert_eq!(after, before);
}

/// Somebody else deleted the row while its answer was waited for: it is not known to the archive.
#[tokio::test]
async fn a_row_that_is_gone_leaves_nothing_in_the_archive() {
    let stage = Stage::new().await;
    stage.broker.answers("one", [None]);
    stage.insert("one", Some("k"), "queue:a").await;
    stage.insert("two", Some("l"), "queue:a").await;
    let (stop, running) = start(&stage);
    stage.broker.saw(2).await;
    stage.until("relay_archive", 1).await;
    stage.pool.execute("DELETE FROM outbox").await.unwrap();
    stop.cancel();
    assert_eq!(running.await.unwrap().confirmed, 2);
    assert_eq!(stage.count("relay_archive").await, 1, "only the row that was there");
}

#[tokio::test]
async fn archiving_with_an_old_epoch_changes_nothing_and_ends_the_session() {
    let stage = Stage::new().await;
    let (stop, running) = start(&stage);
    stage.insert("first", None, "queue:a").await;
    stage.until("relay_archive", 1).await;
    // What another relay does by itself: it takes the lease of one that is paused.
    let taken = "UPDATE relay_source SET epoch = epoch + 1, owner = 'another', process = 'another'";
    stage.pool.execute(taken).await.unwrap();
    stage.insert("second", None, "queue:a").await;
    // The deadline of the first one has not passed: it may publish, and may not archive.
    stage.broker.saw(2).await;
    let released = "UPDATE relay_source SET lease_until = NULL WHERE owner = 'another'";
    stage.pool.execute(released).await.unwrap();
    // The next session publishes it once more, with its id, and archives it.
    stage.until("relay_archive", 2).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.broker.names(), ["first", "second", "second"]);
    let epoch: i64 =
        sqlx::query_scalar("SELECT epoch FROM relay_source").fetch_one(&stage.pool).await.unwrap();
    assert_eq!((stage.count("outbox").await, epoch), (0, 3));
}

#[tokio::test]
async fn what_is_too_old_is_removed_and_nothing_else() {
    let stage = Stage::new().await;
    // Several steps of this source between those of another one, and some that are young enough.
    let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) \
        INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, type, headers, published_at) \
        SELECT CASE WHEN i % 2 = 0 THEN 'main' ELSE 'other' END, randomblob(16), i, 0, 'queue:a', 'order', 'm', '{}', \
          CASE WHEN i <= 5000 THEN i ELSE CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) END FROM n";
    stage.pool.execute(rows).await.unwrap();
    let (stop, running) = start(&stage);
    stage.until("relay_archive", 3_500).await;
    stop.cancel();
    running.await.unwrap();
    let old = "SELECT count(*) FROM relay_archive WHERE source = 'main' AND published_at <= 5000";
    let old: i64 = sqlx::query_scalar(old).fetch_one(&stage.pool).await.unwrap();
    assert_eq!((old, stage.count("relay_archive").await), (0, 3_500));
}
