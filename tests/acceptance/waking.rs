//! What wakes a relay: polling, a doorbell of another process, a notification of the database. Each alone delivers, with the
//! others off or broken; a flood costs no query a ring; and nobody asks much of an idle database.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{sync::Arc, time::Duration};

use barid::doorbell::{Address, Doorbell};
use barid_relay::{
    Relay,
    lane::Order,
    relay::Settings,
    sink::Sink,
    source::{Source, mysql::MySqlSource, postgres::PostgresSource},
};
use barid_tests::{Proxy, TestDatabase, eventually};
use sqlx::{Executor, PgPool, Row};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "waking/bus.rs"]
mod bus;
// Parts of it are for the stress of the window reader only.
#[allow(dead_code)]
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;

use ledger::{Arena, Seen};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const CHANNEL: &str = "outbox_changed";

/// A relay that records, and how it is woken.
pub(crate) struct Working {
    pub(crate) seen: Seen,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Working {
    /// `idle_poll` is the only pause there is: an hour is never.
    pub(crate) fn start(source: impl Source, idle_poll: Duration, address: Option<Address>) -> Self {
        let seen = Seen::default();
        let settings = Settings { poll_min: idle_poll.min(HOUR), idle_poll, ..Settings::default() };
        let mut relay = Relay::builder(Arc::new(source))
            .sink(Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone()))))
            .route("*", "recorder", Order::Strict)
            .settings(settings);
        if let Some(address) = address {
            relay = relay.doorbell_at(address);
        }
        let (relay, stop) = (relay.build().unwrap(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            relay.run_until(stopped).await.unwrap();
        });
        Self { seen, stop, task }
    }

    pub(crate) async fn delivered(&self, rows: usize) {
        eventually(PATIENCE, &format!("{rows} rows are delivered"), async || self.seen.len() == rows).await;
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn insert(pool: &PgPool) {
    let row = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
        VALUES (gen_random_uuid(), 'topic:t', 'a', '1', 'm', '1')";
    pool.execute(row).await.unwrap();
}

/// The outbox was read, found empty, and the relay rests: what comes now waits for whatever wakes it.
async fn resting(pool: &PgPool) {
    eventually(PATIENCE, "the relay rests", async || {
        let reader = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' \
            AND application_name = 'barid-relay' AND query LIKE ANY('{SELECT pg_current_snapshot()%,SELECT NULL%}')";
        pool.fetch_optional(reader).await.unwrap().is_some()
    })
    .await;
}

fn unix(folder: &TempDir) -> Address {
    Address::Unix(folder.path().join("bell"))
}

async fn listening(address: &Address) {
    let Address::Unix(path) = address else { return };
    eventually(PATIENCE, "the relay listens", async || path.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_alone_delivers() {
    let arena = Arena::new().await;
    // Nobody can listen there, and there is no such channel for anybody to notify.
    let nowhere = "unix:/no/such/folder/bell".parse().unwrap();
    let source = PostgresSource::new("main", arena.pool()).listen_to(CHANNEL);
    let relay = Working::start(source, Duration::from_millis(100), Some(nowhere));
    for rows in 1..=5 {
        insert(arena.pool()).await;
        relay.delivered(rows).await;
    }
    relay.stop().await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doorbell_alone_delivers() {
    let (arena, folder) = (Arena::new().await, tempfile::tempdir().unwrap());
    let address = unix(&folder);
    let relay = Working::start(PostgresSource::new("main", arena.pool()), HOUR, Some(address.clone()));
    listening(&address).await;
    resting(arena.pool()).await;
    let bell = Doorbell::to(address).unwrap();
    for rows in 1..=5 {
        insert(arena.pool()).await;
        bell.ring();
        relay.delivered(rows).await;
    }
    relay.stop().await;
    // Its task is told to end and not waited for.
    let gone = async || !folder.path().join("bell").exists();
    eventually(PATIENCE, "the socket goes with the relay", gone).await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_alone_deliver_also_after_their_connection_was_lost() {
    let arena = Arena::new().await;
    let notify = include_str!("../../migrations/optional/postgres_notify.sql");
    arena.pool().execute(sqlx::raw_sql(notify)).await.unwrap();
    let source = PostgresSource::new("main", arena.pool()).listen_to(CHANNEL);
    let relay = Working::start(source, HOUR, None);
    let mut rows = 0;
    for cut in [false, true, false] {
        let before = listener(arena.pool(), None).await;
        resting(arena.pool()).await;
        if cut {
            // The row is not notified of: connecting again makes up for what was not heard.
            let end = sqlx::query("SELECT pg_terminate_backend($1)").bind(before);
            insert(arena.pool()).await;
            end.execute(arena.pool()).await.unwrap();
            listener(arena.pool(), Some(before)).await;
        } else {
            insert(arena.pool()).await;
            let notified = sqlx::query("SELECT barid_notify($1)").bind(CHANNEL);
            notified.execute(arena.pool()).await.unwrap();
        }
        rows += 1;
        relay.delivered(rows).await;
    }
    relay.stop().await;
    arena.close().await;
}

/// The backend that listens, once it is another one than `not`.
async fn listener(pool: &PgPool, not: Option<i32>) -> i32 {
    let found = std::sync::Mutex::new(0);
    eventually(PATIENCE, "the relay listens", async || {
        let who =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        let row = pool.fetch_optional(who).await.unwrap();
        *found.lock().unwrap() = row.map_or(0, |row| row.get::<i32, _>(0));
        *found.lock().unwrap() != 0 && Some(*found.lock().unwrap()) != not
    })
    .await;
    found.into_inner().unwrap()
}

/// Rings and notifications of anybody, and never a row: F31. What counts is the wire, not what the relay believes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_is_not_a_query_a_ring() {
    const RINGS: u64 = 20_000;
    let (arena, folder) = (Arena::new().await, tempfile::tempdir().unwrap());
    let (proxy, url) = Proxy::in_front_of(arena.url()).await;
    let pool = PgPool::connect_lazy(&url).unwrap();
    let address = unix(&folder);
    let source = PostgresSource::new("main", &pool).listen_to(CHANNEL);
    let relay = Working::start(source, HOUR, Some(address.clone()));
    listening(&address).await;
    listener(arena.pool(), None).await;
    resting(arena.pool()).await;
    proxy.reset();
    let bell = Doorbell::to(address).unwrap();
    let began = std::time::Instant::now();
    for ring in 0..RINGS {
        bell.ring();
        if ring % 20 == 0 {
            let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(ring.to_string());
            notify.execute(arena.pool()).await.unwrap();
        }
    }
    let (asked, took) = (proxy.round_trips(), began.elapsed());
    println!("{RINGS} rings and {} notifications in {took:?}: {asked} queries", RINGS / 20);
    let bound = 20 + u64::try_from(took.as_millis()).unwrap() / 20;
    assert!(asked <= bound.min(RINGS / 20), "{asked} queries in {took:?}");
    insert(arena.pool()).await;
    bell.ring();
    relay.delivered(1).await;
    relay.stop().await;
    arena.close().await;
}

/// At most one query a second in all, whatever for.
async fn idles(proxy: &Proxy) {
    const WINDOW: Duration = Duration::from_secs(10);
    let queries = std::sync::Mutex::new(Vec::new());
    // The pauses have to grow first; a window in which they still do is not idle.
    eventually(4 * PATIENCE, "at most one query a second", async || {
        proxy.reset();
        tokio::time::sleep(WINDOW).await; // the length of the measurement
        queries.lock().unwrap().push(proxy.round_trips());
        *queries.lock().unwrap().last().unwrap() <= WINDOW.as_secs()
    })
    .await;
    println!("queries in {WINDOW:?} of idling: {:?}", queries.lock().unwrap());
}

fn idle_poll() -> Duration {
    Settings::default().idle_poll
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_postgres_is_asked_once_a_second() {
    let arena = Arena::new().await;
    let (proxy, url) = Proxy::in_front_of(arena.url()).await;
    let pool = PgPool::connect_lazy(&url).unwrap();
    let relay = Relay::builder(Arc::new(PostgresSource::new("main", &pool).listen_to(CHANNEL)));
    let relay = relay.sink(Sink::new("recorder", Arc::new(recorder::Recorder(Seen::default()))));
    let relay = relay.route("*", "recorder", Order::Strict).build().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    // Other tables have their transactions meanwhile: an idle outbox is not an idle database.
    let others = tokio::spawn(stop.clone().run_until_cancelled_owned(busy_elsewhere(arena.pool().clone())));
    resting(arena.pool()).await;
    idles(&proxy).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    others.await.unwrap();
    arena.close().await;
}

async fn busy_elsewhere(pool: PgPool) {
    loop {
        let other = "UPDATE aggregate SET version = version + 1 WHERE key = 0";
        pool.execute(other).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await; // the pace of the load
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_mariadb_is_asked_once_a_second() {
    let database = TestDatabase::mariadb().await;
    let any = barid::store::AnyPool::MySql(database.pool.clone());
    barid::store::schema::apply(&any).await.unwrap();
    let (proxy, url) = Proxy::in_front_of(&database.url).await;
    let pool = sqlx::MySqlPool::connect_lazy(&url).unwrap();
    let relay = Working::start(MySqlSource::new("main", &pool), idle_poll(), None);
    eventually(PATIENCE, "the relay reads", async || proxy.round_trips() > 10).await;
    idles(&proxy).await;
    relay.stop().await;
    database.drop_now().await;
}
