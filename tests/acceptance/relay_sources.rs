//! The relay on MariaDB: the head reader under writers that commit out of order, with its connections cut.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{collections::HashMap, sync::Arc, time::Duration};

use barid::store::{AnyPool, schema};
use barid_relay::{Relay, lane::Order, sink::Sink, source::mysql::MySqlSource};
use barid_tests::{database::TestDatabase, eventually::eventually};
use futures::future::join_all;
use sqlx::{Connection, Executor, MySqlConnection, MySqlPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

// Parts of it are for the stress of the window reader only.
#[allow(dead_code)]
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;

use ledger::Seen;

const SETTLE: Duration = Duration::from_secs(60);
const WRITERS: i64 = 6;
const TRANSACTIONS: i64 = 120;
const KEYS: i64 = 10;

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

/// Ends the relay's sessions: the one with the claim, and with it what it was doing.
async fn cut(pool: &MySqlPool) -> bool {
    let holder = "SELECT CAST(IS_USED_LOCK(CONCAT('barid-relay:', SHA1(DATABASE()))) AS SIGNED)";
    let holder: Option<i64> = sqlx::query_scalar(holder).fetch_one(pool).await.unwrap();
    let Some(holder) = holder else { return false };
    // It may have ended by itself since.
    let kill = sqlx::AssertSqlSafe(format!("KILL {holder}"));
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
    let relay = Relay::builder(Arc::new(MySqlSource::new("main", &database.pool)))
        .sink(Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone()))))
        .route("*", "recorder", Order::Strict)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    let url = database.url.clone();
    let writing = tokio::spawn(async move {
        join_all((0..WRITERS).map(|writer| write(&url, writer))).await.into_iter().sum::<usize>()
    });
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
    running.await.unwrap().unwrap();
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
    database.drop_now().await;
}
