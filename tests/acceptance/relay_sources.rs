//! The sources beyond the window reader's stress: MariaDB's head reader under writers that commit out of order, with its
//! connections cut; and on PostgreSQL large transactions, rows of another server, and a change of owner.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{collections::HashMap, sync::Arc, time::Duration};

use barid::store::{AnyPool, schema};
use barid_relay::{
    Relay,
    lane::Order,
    sink::Sink,
    source::{Source, mysql::MySqlSource, postgres::PostgresSource},
};
use barid_tests::{database::TestDatabase, eventually::eventually};
use futures::future::join_all;
use sqlx::{Connection, Executor, MySqlConnection, MySqlPool, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[path = "relay_sources/again.rs"]
mod again;
#[path = "relay_sources/bound.rs"]
mod bound;
// Parts of it are for the stress of the window reader only.
#[allow(dead_code)]
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;

use ledger::{Arena, Seen};

const SETTLE: Duration = Duration::from_secs(60);
const WRITERS: i64 = 6;
const TRANSACTIONS: i64 = 120;
const KEYS: i64 = 10;

fn start(source: Arc<dyn Source>, seen: &Seen) -> (CancellationToken, JoinHandle<()>) {
    let relay = Relay::builder(source)
        .sink(Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone()))))
        .route("*", "recorder", Order::Strict)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let running = tokio::spawn(async move {
        relay.run_until(stopped).await.unwrap();
    });
    (stop, running)
}

/// Raises the version of a key and emits it; every tenth transaction rolls back, some stay open for a while.
async fn write(url: &str, writer: i64) -> usize {
    let mut db = MySqlConnection::connect(url).await.unwrap();
    let mut committed = 0;
    for at in 0..TRANSACTIONS {
        let key = (writer * 7 + at * 3) % KEYS;
        db.execute("BEGIN").await.unwrap();
        let raise = sqlx::query("UPDATE aggregate SET version = version + 1 WHERE k = ?").bind(key);
        raise.execute(&mut db).await.unwrap();
        let version = sqlx::query_scalar("SELECT version FROM aggregate WHERE k = ?").bind(key);
        let version: i64 = version.fetch_one(&mut db).await.unwrap();
        let row = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, `type`, payload) \
            VALUES (?, 'topic:t', 'a', ?, 'm', ?)";
        let row = sqlx::query(row)
            .bind(Uuid::now_v7())
            .bind(key.to_string())
            .bind(version.to_string().into_bytes());
        row.execute(&mut db).await.unwrap();
        if at % 15 == writer {
            tokio::time::sleep(Duration::from_millis(100)).await; // others commit later rows meanwhile
        }
        let commit = at % 10 != 9;
        db.execute(if commit { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        committed += usize::from(commit);
    }
    committed
}

/// Ends the session that the relay reads with, and with it what it was doing.
async fn cut(pool: &MySqlPool) -> bool {
    let reader = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = DATABASE() \
        AND info LIKE 'SELECT seq, id, destination%' AND id <> CONNECTION_ID()";
    let reader: Option<i64> = sqlx::query_scalar(reader).fetch_optional(pool).await.unwrap();
    let Some(reader) = reader else { return false };
    // It may have ended by itself since.
    let kill = sqlx::AssertSqlSafe(format!("KILL {reader}"));
    pool.execute(sqlx::raw_sql(kill)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_head_reader_loses_inverts_and_repeats_nothing() {
    let database = TestDatabase::mariadb().await;
    schema::apply(&AnyPool::MySql(database.pool.clone())).await.unwrap();
    let aggregate = "CREATE TABLE aggregate (k BIGINT PRIMARY KEY, version BIGINT NOT NULL)";
    database.pool.execute(aggregate).await.unwrap();
    for key in 0..KEYS {
        let row = sqlx::query("INSERT INTO aggregate VALUES (?, 0)").bind(key);
        row.execute(&database.pool).await.unwrap();
    }
    let seen = Seen::default();
    let (stop, running) = start(Arc::new(MySqlSource::new("main", &database.pool)), &seen);
    let url = database.url.clone();
    let writing = tokio::spawn(async move {
        join_all((0..WRITERS).map(|writer| write(&url, writer))).await.into_iter().sum::<usize>()
    });
    let odd = "INSERT INTO outbox (id, destination, aggregatetype, `type`) VALUES (?, 'nowhere', 'a', 'm')";
    sqlx::query(odd).bind(Uuid::now_v7()).execute(&database.pool).await.unwrap();
    let mut cuts = 0;
    while cuts < 10 {
        let before = seen.len();
        eventually(SETTLE, "the reader delivers", async || seen.len() > before || writing.is_finished())
            .await;
        cuts += usize::from(cut(&database.pool).await);
    }
    let committed = writing.await.unwrap();
    eventually(SETTLE, "the outbox is empty", async || {
        let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM outbox").fetch_one(&database.pool);
        left.await.unwrap() == 0
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let (mut ids, mut newest, mut inverted) = (std::collections::HashSet::new(), HashMap::new(), 0);
    for message in seen.all() {
        ids.insert(message.id);
        let newest = newest.entry(message.key).or_insert(message.version);
        inverted += usize::from(message.version < *newest);
        *newest = message.version.max(*newest);
    }
    println!(
        "MariaDB: committed {committed}, delivered {}, distinct {}, inverted {inverted}",
        seen.len(),
        ids.len()
    );
    assert_eq!((seen.len(), ids.len(), inverted), (committed, committed, 0));
    let parked = sqlx::query_as("SELECT state, last_error FROM relay_parked");
    let parked: Vec<(String, String)> = parked.fetch_all(&database.pool).await.unwrap();
    assert_eq!(parked.len(), 1);
    assert!(parked[0].0 == "poison" && parked[0].1.contains("\"nowhere\""), "{parked:?}");
    database.drop_now().await;
}

const BULK: &str = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
    SELECT gen_random_uuid(), 'topic:t', 'a', (i % 7)::text, 'm', convert_to(i::text, 'UTF8') FROM generate_series(1, 5000) i";

async fn delivered(seen: &Seen, rows: usize) {
    eventually(SETTLE, "all rows are delivered", async || seen.len() >= rows).await;
    let all = seen.all();
    assert_eq!(all.len(), rows);
    for key in 0..7 {
        let versions: Vec<i64> = all.iter().filter(|row| row.key == key).map(|row| row.version).collect();
        assert!(versions.is_sorted(), "key {key}");
    }
}

/// More rows than one read, buffer and window hold, first as a backlog and then in one window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_read_page_by_page() {
    let arena = Arena::new().await;
    let (backlog, window) = (Seen::default(), Seen::default());
    arena.pool().execute(BULK).await.unwrap();
    let (stop, running) = start(Arc::new(PostgresSource::new("main", arena.pool())), &backlog);
    delivered(&backlog, 5_000).await;
    stop.cancel();
    running.await.unwrap();
    let (stop, running) = start(Arc::new(PostgresSource::new("main", arena.pool())), &window);
    // One row first, so that the reader has a snapshot to compare with.
    arena.pool().execute(sqlx::AssertSqlSafe(BULK.replace("(1, 5000)", "(0, 0)"))).await.unwrap();
    delivered(&window, 1).await;
    arena.pool().execute(BULK).await.unwrap();
    delivered(&window, 5_001).await;
    stop.cancel();
    running.await.unwrap();
    arena.close().await;
}

/// After a restore from a dump, rows carry transaction ids that this server has not reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_server_are_adopted() {
    let arena = Arena::new().await;
    arena.pool().execute(BULK).await.unwrap();
    let restored = "UPDATE outbox SET xid = (pg_current_xact_id()::text::bigint + 1000000000)::text::xid8 WHERE seq <= 100";
    arena.pool().execute(restored).await.unwrap();
    let seen = Seen::default();
    let (stop, running) = start(Arc::new(PostgresSource::new("main", arena.pool())), &seen);
    delivered(&seen, 5_000).await;
    stop.cancel();
    running.await.unwrap();
    arena.close().await;
}

/// While this relay was cut off, another one had the outbox: what this one remembers may be wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_replaced_meanwhile_starts_afresh() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    let (stop, running) = start(Arc::new(PostgresSource::new("main", arena.pool())), &seen);
    claimed(arena.pool()).await;
    let taken = "UPDATE relay_source SET owner = 'another', process = 'another', epoch = epoch + 1";
    arena.pool().execute(taken).await.unwrap();
    let refused = "SELECT EXISTS (SELECT FROM relay_source WHERE owner <> 'another')";
    arena.pool().execute(BULK).await.unwrap();
    delivered(&seen, 5_000).await;
    eventually(SETTLE, "the relay has taken the outbox back", async || {
        sqlx::query_scalar::<_, bool>(refused).fetch_one(arena.pool()).await.unwrap()
    })
    .await;
    let epoch: i64 =
        sqlx::query_scalar("SELECT epoch FROM relay_source").fetch_one(arena.pool()).await.unwrap();
    assert_eq!(epoch, 3, "this one, another one, this one again");
    stop.cancel();
    running.await.unwrap();
    arena.close().await;
}

async fn claimed(pool: &PgPool) {
    eventually(SETTLE, "the relay has claimed the outbox", async || {
        let entered =
            sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM relay_source)").fetch_one(pool);
        entered.await.unwrap()
    })
    .await;
}
