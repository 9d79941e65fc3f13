//! A table of somebody else without an `xid`: read from the head above an exact bound, under the writers that the window reader
//! faces too; a row below the bound is parked with its key; a sequence with a cache is refused.
//!
//! `BARID_TEST_LONG=1` makes the stress long.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{sync::Arc, time::Duration};

use barid_relay::{
    Relay, RelayError,
    lane::{Order, Stats},
    sink::Sink,
    source::postgres::PostgresSource,
};
use barid_tests::{eventually, servers};
use sqlx::{Executor, PgPool, Row};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

// Parts of it are for the stress of the window reader only.
#[allow(dead_code)]
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;
#[allow(dead_code)]
#[path = "window_reader/stress.rs"]
mod stress;

use ledger::{Arena, Seen};

const SETTLE: Duration = Duration::from_secs(60);

fn stress_time() -> Duration {
    Duration::from_secs(if servers::long() { 120 } else { 12 })
}

/// The outbox becomes a table of another name without `xid`; the writers go on with what they know through a view.
async fn foreign() -> Arena {
    let arena = Arena::new().await;
    let change = "ALTER TABLE outbox RENAME TO legacy_events; ALTER TABLE legacy_events DROP COLUMN xid; \
        CREATE VIEW outbox AS SELECT * FROM legacy_events";
    arena.pool().execute(sqlx::raw_sql(change)).await.unwrap();
    arena
}

fn relay(pool: &PgPool, seen: &Seen) -> Relay {
    let source = PostgresSource::new("main", pool).table("legacy_events".parse().unwrap());
    let source = source.late_look(Duration::from_millis(200));
    let sink = Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone())));
    Relay::builder(Arc::new(source)).sink(sink).route("*", "recorder", Order::Strict).build().unwrap()
}

fn start(pool: &PgPool, seen: &Seen) -> (CancellationToken, JoinHandle<Result<Stats, RelayError>>) {
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay(pool, seen).run_until(stop.clone().cancelled_owned()));
    (stop, running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_foreign_table_is_read_without_loss_or_inversion_and_what_comes_too_late_is_parked() {
    let arena = foreign().await;
    let seen = Seen::default();
    let (stop, running) = start(arena.pool(), &seen);
    stress::start(&arena, stress_time()).await.unwrap();
    eventually(SETTLE, "the table is empty", async || {
        arena.pool().fetch_optional("SELECT FROM legacy_events").await.unwrap().is_none()
    })
    .await;
    let result = arena.compare(&seen).await;
    println!("foreign table: {result:?}");
    assert!(result.committed > 500 && result.rolled_back > 20, "too little happened: {result:?}");
    assert_eq!((result.lost, result.inverted, result.repeated, result.phantom), (0, 0, 0, 0), "{result:?}");

    // Positions that somebody chose by hand: below the bound once it has moved, and parked then.
    let below = std::sync::atomic::AtomicI64::new(0);
    eventually(SETTLE, "a row below the bound is parked", async || {
        let row = "INSERT INTO legacy_events (seq, id, destination, aggregatetype, aggregateid, type, payload) \
            VALUES ($1, gen_random_uuid(), 'topic:t', 'hand', '1', 'm', '1')";
        let seq = below.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        sqlx::query(row).bind(seq).execute(arena.pool()).await.unwrap();
        let parked = arena.pool().fetch_one("SELECT count(*) FROM relay_parked WHERE state = 'poison'").await;
        parked.unwrap().get::<i64, _>(0) > 0
    })
    .await;
    eventually(SETTLE, "the later rows of its key are parked behind it", async || {
        let left = arena.pool().fetch_optional("SELECT FROM legacy_events").await.unwrap();
        left.is_none()
    })
    .await;
    let row =
        arena.pool().fetch_one("SELECT last_error FROM relay_parked WHERE state = 'poison'").await.unwrap();
    assert!(row.get::<String, _>(0).contains("appeared below position"), "{}", row.get::<String, _>(0));
    stop.cancel();
    assert!(running.await.unwrap().unwrap().late > 0);
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_with_a_cache_is_refused() {
    let arena = foreign().await;
    for (change, says) in [
        ("ALTER TABLE legacy_events ALTER COLUMN seq SET CACHE 20", "has CACHE 20"),
        ("ALTER TABLE legacy_events ALTER COLUMN seq DROP IDENTITY", "has no sequence"),
    ] {
        arena.pool().execute(change).await.unwrap();
        let refused = relay(arena.pool(), &Seen::default()).run_until(std::future::pending());
        let refused =
            tokio::time::timeout(SETTLE, refused).await.expect("it is refused").unwrap_err().to_string();
        assert!(refused.contains(says) && refused.contains("legacy_events.seq"), "{refused}");
        assert!(refused.contains("CACHE 1"), "{refused}");
    }
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_another_type_ends_the_source_and_is_named() {
    let arena = foreign().await;
    let change = "DROP VIEW outbox; ALTER TABLE legacy_events ALTER COLUMN payload TYPE text USING 'x'; \
        INSERT INTO legacy_events (id, destination, aggregatetype, type, payload) \
        VALUES (gen_random_uuid(), 'topic:t', 'a', 'm', 'a text')";
    arena.pool().execute(sqlx::raw_sql(change)).await.unwrap();
    let ended = relay(arena.pool(), &Seen::default()).run_until(std::future::pending());
    let ended = tokio::time::timeout(SETTLE, ended).await.expect("it is not tried again").unwrap_err();
    assert!(!ended.is_transient());
    for says in ["source main", "payload of the row with seq", "barid-relay schema print"] {
        assert!(ended.to_string().contains(says), "{ended}");
    }
    arena.close().await;
}
