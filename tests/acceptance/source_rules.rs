//! What a source refuses, naming it: a replica, a pool in transaction mode. What it waits out: a server that only reads. And what it
//! leaves alone: the log of a SQLite file.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{path::Path, sync::Arc, time::Duration};

use barid::store::{AnyPool, schema};
use barid_relay::{
    Relay, RelayError,
    lane::Order,
    sink::Sink,
    source::{Source, SourceError, postgres::PostgresSource, sqlite::SqliteSource},
};
use barid_tests::{PrivateServer, TestDatabase, eventually};
use sqlx::{Executor, PgPool};
use tokio::{process::Command, task::JoinHandle};
use tokio_util::sync::CancellationToken;

// Parts of it are for the stress of the window reader only.
#[allow(dead_code)]
#[path = "window_reader/ledger.rs"]
mod ledger;
#[path = "window_reader/recorder.rs"]
mod recorder;

use ledger::{Arena, Seen};

const PATIENCE: Duration = Duration::from_secs(60);

fn relay(source: impl Source, seen: &Seen) -> Relay {
    let sink = Sink::new("recorder", Arc::new(recorder::Recorder(seen.clone())));
    Relay::builder(Arc::new(source)).sink(sink).route("*", "recorder", Order::Strict).build().unwrap()
}

fn start(source: impl Source, seen: &Seen) -> (CancellationToken, JoinHandle<()>) {
    let (relay, stop) = (relay(source, seen), CancellationToken::new());
    let stopped = stop.clone().cancelled_owned();
    let running = tokio::spawn(async move {
        relay.run_until(stopped).await.unwrap();
    });
    (stop, running)
}

async fn insert(pool: &PgPool) {
    let row = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
        VALUES (gen_random_uuid(), 'topic:t', 'a', '1', 'm', '1')";
    pool.execute(row).await.unwrap();
}

async fn delivered(seen: &Seen, rows: usize) {
    eventually(PATIENCE, &format!("{rows} rows are delivered"), async || seen.len() == rows).await;
}

/// Runs a script of `tests/services` on the folder of a server; what it starts ends with the server.
async fn beside(server: &PrivateServer, name: &str, argument: &str) -> PgPool {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(name));
    let output = script.arg(server.folder()).arg(argument).output().await.unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let url = [name.trim_end_matches(".sh"), argument].join("-");
    let url = server.folder().join(format!("{}.url", url.trim_end_matches('-')));
    PgPool::connect_lazy(std::fs::read_to_string(url).unwrap().trim()).unwrap()
}

/// F9 and F30, against the real ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_and_a_transaction_pool_are_refused_and_named() {
    let server = PrivateServer::postgres("").await;
    let primary = PgPool::connect_lazy(&server.url).unwrap();
    schema::apply(&AnyPool::Postgres(primary.clone())).await.unwrap();
    insert(&primary).await;

    let standby = beside(&server, "standby.sh", "").await;
    eventually(PATIENCE, "the replica has the row", async || {
        let row = standby.fetch_optional("SELECT FROM outbox").await;
        row.is_ok_and(|row| row.is_some())
    })
    .await;
    let port = standby.connect_options().get_port();
    let refused = ends(relay(PostgresSource::new("main", &standby), &Seen::default())).await;
    assert!(matches!(refused, RelayError::Source(SourceError::Replica { .. })), "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains(&format!(":{port}/")) && said.contains("[source.main] url to the primary"),
        "{said}"
    );

    let pooled = beside(&server, "pgbouncer.sh", "transaction").await;
    // Other clients come and go, and with them the backends.
    let crowd = CancellationToken::new();
    let busy = tokio::spawn(crowd.clone().run_until_cancelled_owned(crowded(pooled.clone())));
    let refused = ends(relay(PostgresSource::new("main", &pooled), &Seen::default())).await;
    crowd.cancel();
    busy.await.unwrap();
    assert!(matches!(refused, RelayError::Source(SourceError::Pooler { .. })), "{refused}");
    let said = refused.to_string();
    assert!(said.contains("pooler in transaction mode") && said.contains("session mode"), "{said}");

    let seen = Seen::default();
    let pooled = beside(&server, "pgbouncer.sh", "session").await;
    let (stop, running) = start(PostgresSource::new("main", &pooled), &seen);
    delivered(&seen, 1).await;
    stop.cancel();
    running.await.unwrap();
}

async fn crowded(pool: PgPool) {
    loop {
        // Text, because that is what works behind such a pool.
        let work = "BEGIN; SELECT pg_sleep(0.01); COMMIT";
        // A pool that is full refuses some, which is part of the crowd.
        let _ = pool.execute(sqlx::raw_sql(work)).await;
    }
}

async fn ends(relay: Relay) -> RelayError {
    let running = relay.run_until(std::future::pending());
    tokio::time::timeout(PATIENCE, running).await.expect("it is refused").unwrap_err()
}

/// F8: after a fail-over the address leads to a node that only reads, for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_reads_is_waited_out() {
    let arena = Arena::new().await;
    let seen = Seen::default();
    let (stop, running) = start(PostgresSource::new("main", arena.pool()), &seen);
    insert(arena.pool()).await;
    delivered(&seen, 1).await;
    for read_only in ["on", "off"] {
        let database = arena.pool().connect_options().get_database().unwrap().to_owned();
        let set = format!("ALTER DATABASE {database} SET default_transaction_read_only = {read_only}");
        let mut admin = arena.connection().await;
        let own = "SET default_transaction_read_only = off";
        admin.execute(own).await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
        // As a fail-over does: every session begins anew.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'barid-relay'";
        admin.execute(end).await.unwrap();
        if read_only == "on" {
            let row = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
                VALUES (gen_random_uuid(), 'topic:t', 'a', '1', 'm', '2')";
            admin.execute(row).await.unwrap();
            eventually(PATIENCE, "it has connected to the server that only reads", async || {
                let back = "SELECT FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = 'barid-relay'";
                arena.pool().fetch_optional(back).await.unwrap().is_some()
            })
            .await;
            assert!(!running.is_finished(), "it waits");
        }
    }
    eventually(PATIENCE, "both rows are delivered and deleted", async || {
        let left = arena.pool().fetch_optional("SELECT FROM outbox").await.unwrap();
        left.is_none() && seen.all().iter().any(|message| message.version == 2)
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    arena.close().await;
}

/// F27: a reader that is always in a transaction would keep the log from ever beginning anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_does_not_make_the_log_of_a_sqlite_file_grow() {
    const ROUNDS: usize = 400;
    const PAYLOAD: usize = 8_192;
    let database = TestDatabase::sqlite().await;
    schema::apply(&AnyPool::Sqlite(database.pool.clone())).await.unwrap();
    let seen = Seen::default();
    let (stop, running) = start(SqliteSource::new("main", database.pool.clone()), &seen);
    for round in 0..ROUNDS {
        let row = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
            VALUES (randomblob(16), 'topic:t', 'a', '1', 'm', CAST(? AS BLOB))";
        let payload = format!("{round} {}", "x".repeat(PAYLOAD));
        sqlx::query(row).bind(payload).execute(&database.pool).await.unwrap();
    }
    delivered(&seen, ROUNDS).await;
    stop.cancel();
    running.await.unwrap();
    let file = database.pool.connect_options().get_filename().to_owned();
    let log = std::fs::metadata(file.with_extension("db-wal")).unwrap().len();
    println!("{ROUNDS} rows of {PAYLOAD} bytes: the log has {log} bytes");
    // The log begins anew after 1,000 pages of 4 KiB; without that it would hold every row, and every DELETE.
    assert!(log < 6 * 1024 * 1024, "{log} bytes");
    database.drop_now().await;
}
