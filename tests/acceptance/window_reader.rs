//! The window reader loses nothing and inverts nothing; the three readers that look simpler do.
//!
//! All of them face the same writers ([`stress`]): early transaction ids, savepoints, rollbacks, transactions of a second,
//! a row lock on the key before the insert. Chance finds most of the faults; so that none of the tests needs luck, a
//! director adds interleavings whose order of commits is controlled ([`director`]).
//!
//! `BARID_TEST_LONG=1` makes the stress long.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{sync::Arc, time::Duration};

use barid_relay::{Relay, lane::Order, sink::Sink, source::postgres::PostgresSource};
use barid_tests::{eventually::eventually, servers};
use sqlx::PgPool;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

#[path = "window_reader/director.rs"]
mod director;
#[path = "window_reader/forbidden.rs"]
mod forbidden;
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;
#[path = "window_reader/stress.rs"]
mod stress;

use ledger::{Arena, Seen};

const SETTLE: Duration = Duration::from_secs(60);

fn stress_time() -> Duration {
    Duration::from_secs(if servers::long() { 180 } else { 20 })
}

/// The relay at work, with a sink that records.
struct Working {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Working {
    fn start(pool: &PgPool, seen: &Seen) -> Self {
        let sink = Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone())));
        let relay = Relay::builder(Arc::new(PostgresSource::new("main", pool)))
            .sink(sink)
            .route("*", "recorder", Order::Strict)
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            relay.run_until(stopped).await.unwrap();
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn empty(pool: &PgPool) {
    eventually(SETTLE, "the outbox is empty", async || {
        sqlx::query_scalar::<_, bool>("SELECT NOT EXISTS (SELECT FROM outbox)").fetch_one(pool).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_window_reader_loses_and_inverts_nothing() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    let relay = Working::start(arena.pool(), &seen);
    let stress = stress::start(&arena, stress_time());
    for round in 0..5 {
        director::late_commit(&arena, &seen, round).await;
        director::early_xid(&arena, round).await;
        director::backlog(&arena, round).await;
    }
    stress.await.unwrap();
    empty(arena.pool()).await;
    relay.stop().await;
    let result = arena.compare(&seen).await;
    println!("window reader: {result:?}");
    assert!(result.committed > 500, "too little happened: {result:?}");
    assert!(result.rolled_back > 20, "too little happened: {result:?}");
    assert_eq!((result.lost, result.inverted, result.repeated, result.phantom), (0, 0, 0, 0), "{result:?}");
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_terminations_of_the_readers_backend_repeat_nothing() {
    const TERMINATIONS: usize = 100;
    let arena = Arena::new().await;
    let seen = Seen::default();
    let relay = Working::start(arena.pool(), &seen);
    let stress = stress::until_stopped(&arena);
    let mut terminated = Vec::new();
    while terminated.len() < TERMINATIONS {
        // Between two terminations the reader must have got somewhere, or the test would show nothing.
        let before = seen.len();
        eventually(SETTLE, "the reader delivers", async || seen.len() > before + 5).await;
        let Some(pid) = reader_backend(arena.pool()).await else { continue };
        if terminated.contains(&pid) {
            continue;
        }
        let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
            .bind(pid)
            .fetch_one(arena.pool())
            .await
            .unwrap();
        assert!(ended, "backend {pid} was there");
        terminated.push(pid);
    }
    stress.stop().await;
    empty(arena.pool()).await;
    relay.stop().await;
    let result = arena.compare(&seen).await;
    println!("{TERMINATIONS} terminations: {result:?}");
    assert_eq!((result.lost, result.inverted, result.repeated, result.phantom), (0, 0, 0, 0), "{result:?}");
    arena.close().await;
}

/// The backend that the relay reads with.
async fn reader_backend(pool: &PgPool) -> Option<i32> {
    sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'barid-relay' \
         AND (query LIKE 'SELECT pg_current_snapshot%' OR query LIKE 'SELECT seq, id, destination%') LIMIT 1",
    )
    .fetch_optional(pool)
    .await
    .unwrap()
}

/// A forbidden reader under the stress, until it has nothing more to read.
async fn under_stress<R, F>(arena: &Arena, seen: &Seen, start: R, interleave: F)
where
    R: FnOnce(PgPool, Seen, CancellationToken) -> JoinHandle<()>,
    F: AsyncFnOnce(),
{
    let done = CancellationToken::new();
    let reader = start(arena.pool().clone(), seen.clone(), done.clone());
    let stress = stress::start(arena, Duration::from_secs(4));
    interleave().await;
    stress.await.unwrap();
    done.cancel();
    let ended = tokio::time::timeout_at(Instant::now() + SETTLE, reader).await;
    ended.expect("the reader ends").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_of_what_is_greater_than_the_last_seq_loses_rows() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    under_stress(&arena, &seen, forbidden::greater_than_last, async || {
        for round in 0..3 {
            director::late_commit(&arena, &seen, round).await;
        }
    })
    .await;
    let result = arena.compare(&seen).await;
    println!("seq > last: {result:?}");
    assert!(result.lost >= 3, "one for each directed round at least: {result:?}");
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_in_the_order_of_xid_inverts_keys() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    under_stress(&arena, &seen, forbidden::order_by_xid, async || {
        for round in 0..3 {
            director::early_xid(&arena, round).await;
        }
    })
    .await;
    let result = arena.compare(&seen).await;
    println!("ORDER BY xid: {result:?}");
    assert_eq!(result.lost, 0, "its fault is the order: {result:?}");
    assert!(result.inverted >= 3, "one for each directed round at least: {result:?}");
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_readers_that_skip_locked_rows_invert_keys() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    under_stress(&arena, &seen, forbidden::skip_locked, async || {
        for round in 0..3 {
            director::backlog(&arena, round).await;
        }
    })
    .await;
    let result = arena.compare(&seen).await;
    println!("SKIP LOCKED: {result:?}");
    assert_eq!(result.lost, 0, "its fault is the order: {result:?}");
    assert!(result.inverted >= 3, "one for each directed round at least: {result:?}");
    arena.close().await;
}
