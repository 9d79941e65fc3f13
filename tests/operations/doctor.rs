//! `barid-relay doctor`: everything that it claims to find, provoked for real and found by the real program.

#![allow(clippy::unwrap_used)] // a test

use std::path::Path;

use barid::store::AnyPool;
use barid_tests::place::{KINDS, Kind, PATIENCE, Place};
use barid_tests::{PrivateServer, Process, TestDatabase, eventually, faketime, names, servers};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::process::Command;

/// What the doctor finds: exit code and findings.
async fn doctor(place: &Place, more: &[&str]) -> (i32, Vec<Value>) {
    let (code, said) = place.command(&[&["doctor", "--output", "json"], more].concat()).await;
    let json = &said[said.find('{').unwrap_or_default()..=said.rfind('}').unwrap_or_default()];
    let found: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {said}"));
    (code, found["findings"].as_array().unwrap().clone())
}

fn finding<'a>(found: &'a [Value], check: &str, level: &str) -> Option<&'a Value> {
    found.iter().find(|finding| finding["check"] == check && finding["level"] == level)
}

/// A finding of this check and level says this, and the exit code is that of the worst.
fn says((code, found): &(i32, Vec<Value>), check: &str, level: &str, texts: &[&str]) {
    let all: Vec<_> =
        found.iter().filter(|finding| finding["check"] == check && finding["level"] == level).collect();
    let said = |text: &str| all.iter().any(|finding| finding.to_string().contains(text));
    assert!(!all.is_empty() && texts.iter().all(|text| said(text)), "{check} {level} {texts:?}: {found:#?}");
    let problems = found.iter().any(|finding| finding["level"] == "problem");
    assert_eq!(*code, if problems { 8 } else { 0 }, "{found:#?}");
}

#[tokio::test]
async fn where_all_is_well_nothing_is_wrong() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let found = doctor(&place, &[]).await;
        assert_eq!(found.0, 0, "{kind:?}: {:#?}", found.1);
        for check in ["connection", "schema", "reading"] {
            says(&found, check, "ok", &[]);
        }
        if kind != Kind::Sqlite {
            for check in ["grants", "sequence", "clock", "tls"] {
                says(&found, check, "ok", &[]);
            }
        }
        let (code, table) = place.command(&["doctor", "--all"]).await;
        assert!(code == 0 && table.contains("source.main") && table.contains("sink.out"), "{table}");
    }
}

fn pool_of(place: &Place) -> &PgPool {
    match &place.pool {
        AnyPool::Postgres(pool) => pool,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sequence_vacuum_and_role() {
    let place = Place::new(Kind::Postgres).await;
    says(&doctor(&place, &[]).await, "role", "warning", &["is a superuser", "grants print"]);
    place.execute("ALTER TABLE outbox ALTER COLUMN seq SET CACHE 20").await;
    place.execute("ALTER TABLE outbox SET (vacuum_truncate = on)").await;
    let found = doctor(&place, &[]).await;
    says(&found, "sequence", "problem", &["has CACHE 20", "ALTER SEQUENCE outbox_seq_seq CACHE 1"]);
    says(&found, "autovacuum", "warning", &["vacuum_truncate=off"]);
    place.execute("ALTER TABLE outbox SET (autovacuum_enabled = false)").await;
    says(&doctor(&place, &[]).await, "autovacuum", "problem", &["the autovacuum of outbox is off"]);
    // What it says helps.
    place
        .execute("ALTER SEQUENCE outbox_seq_seq CACHE 1; ALTER TABLE outbox RESET (autovacuum_enabled)")
        .await;
    place.execute("ALTER TABLE outbox SET (vacuum_truncate = off)").await;
    let found = doctor(&place, &[]).await;
    says(&found, "sequence", "ok", &[]);
    says(&found, "autovacuum", "ok", &[]);
}

#[tokio::test]
async fn who_holds_a_snapshot_is_named() {
    let place = Place::new(Kind::Postgres).await;
    says(&doctor(&place, &[]).await, "snapshots", "ok", &[]);
    let mut held = pool_of(&place).acquire().await.unwrap();
    let open = "SET application_name = 'a report'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox";
    sqlx::raw_sql(open).execute(&mut *held).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *held).await.unwrap();
    eventually(PATIENCE, "the transaction is old enough", async || {
        finding(&doctor(&place, &["--old", "1s"]).await.1, "snapshots", "warning").is_some()
    })
    .await;
    let found = doctor(&place, &["--old", "1s"]).await;
    says(&found, "snapshots", "warning", &[&format!("process {pid} of "), "a report, idle in transaction"]);
    sqlx::raw_sql("ROLLBACK; BEGIN; INSERT INTO relay_source (source) VALUES ('x'); PREPARE TRANSACTION 'a forgotten one'")
        .execute(&mut *held)
        .await
        .unwrap();
    eventually(PATIENCE, "the prepared transaction is old enough", async || {
        let (_, found) = doctor(&place, &["--old", "1s"]).await;
        finding(&found, "snapshots", "warning")
            .is_some_and(|found| found.to_string().contains("a forgotten one"))
    })
    .await;
    sqlx::raw_sql("ROLLBACK PREPARED 'a forgotten one'").execute(&mut *held).await.unwrap();
    says(&doctor(&place, &["--old", "1s"]).await, "snapshots", "ok", &[]);
}

#[tokio::test]
async fn an_old_transaction_on_mariadb_and_a_file_for_everybody_on_sqlite() {
    let place = Place::new(Kind::MariaDb).await;
    let AnyPool::MySql(pool) = &place.pool else { panic!("MariaDB") };
    let mut held = pool.acquire().await.unwrap();
    sqlx::raw_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT").execute(&mut *held).await.unwrap();
    let thread: i64 =
        sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)").fetch_one(&mut *held).await.unwrap();
    let mine = format!("connection {thread} of ");
    eventually(PATIENCE, "the transaction is old enough", async || {
        let (_, found) = doctor(&place, &["--old", "1s"]).await;
        found.iter().any(|finding| finding.to_string().contains(&mine))
    })
    .await;
    sqlx::raw_sql("ROLLBACK").execute(&mut *held).await.unwrap();

    let place = Place::new(Kind::Sqlite).await;
    let file = place.url.trim_start_matches("sqlite://").split('?').next().unwrap().to_owned();
    let mode = async |mode: &str| {
        assert!(Command::new("chmod").args([mode, &file]).status().await.unwrap().success())
    };
    mode("o+r").await;
    says(&doctor(&place, &[]).await, "file", "warning", &["can be read by every user", "chmod o= "]);
    mode("o=").await;
    says(&doctor(&place, &[]).await, "file", "ok", &[]);
}

#[tokio::test]
async fn a_missing_grant_is_named() {
    let place = Place::new(Kind::Postgres).await;
    let role = names::unique("barid_doctor").replace(['-', '.'], "_");
    place.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let grants = "GRANT SELECT ON outbox, relay_parked, relay_source, relay_released, barid_schema TO";
    place.execute(&format!("{grants} {role}; GRANT UPDATE ON outbox TO {role}")).await;
    let mut url = url::Url::parse(&place.url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("x")).unwrap();
    let config = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), config.replace(&place.url, url.as_str())).unwrap();
    let found = doctor(&place, &[]).await;
    says(&found, "grants", "problem", &["DELETE on outbox", "UPDATE on relay_source", "grants print"]);
    says(&found, "role", "warning", &["may change payloads"]);
    says(&found, "statistics", "warning", &["GRANT pg_read_all_stats"]);
    place.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// A clock that is three days ahead: that of the machine, as far as the program can tell.
#[tokio::test]
async fn clocks_that_disagree() {
    let place = Place::new(Kind::Postgres).await;
    let mut command = Process::relay_command();
    command.args(["doctor", "--output", "json", "--config", &place.config()]);
    command.env("LD_PRELOAD", faketime()).env("FAKETIME", "+3d").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut process = Process::start(&mut command);
    let status = process.ended(PATIENCE).await;
    let said = process.log().join("\n");
    assert!(
        status.success() && said.contains("the database's clock is 259") && said.contains("behind"),
        "{said}"
    );
}

#[tokio::test]
async fn queues_that_are_not_there_or_otherwise() {
    let place = Place::new(Kind::Postgres).await;
    place.configure(&format!("queue:{}", place.missing));
    let found = doctor(&place, &[]).await;
    says(&found, "destinations", "problem", &[&place.missing, "does not exist"]);
    // A queue that drops its oldest messages when it is full.
    let connection =
        lapin::Connection::connect(&servers::amqp(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let name = place.missing.as_str();
    channel.queue_declare(name.into(), options, arguments).await.unwrap();
    let found = doctor(&place, &[]).await;
    says(&found, "destinations", "ok", &[]);
    says(&found, "arguments", "warning", &[name]);
    let options = lapin::options::QueueDeleteOptions::default();
    channel.queue_delete(name.into(), options).await.unwrap();
    // And one as this program would declare it.
    place.configure(&format!("queue:{}", place.there));
    let found = doctor(&place, &[]).await;
    says(&found, "arguments", "ok", &[&place.there]);
}

#[tokio::test]
async fn what_cannot_be_reached_and_the_wrong_schema() {
    let place = Place::new(Kind::Postgres).await;
    let good = std::fs::read_to_string(place.config()).unwrap();
    let write = |text: &str| std::fs::write(place.config(), text).unwrap();
    write(&good.replace(&servers::amqp(), "amqp://nobody:S3CR3T-CANARY@127.0.0.1:1/%2f"));
    let found = doctor(&place, &[]).await;
    says(&found, "connection", "problem", &["sink.out"]);
    assert!(!format!("{found:?}").contains("S3CR3T-CANARY"));
    let empty = TestDatabase::postgres().await;
    write(&good.replace(&place.url, &empty.url));
    says(&doctor(&place, &[]).await, "schema", "problem", &["barid-relay schema apply"]);
    empty.drop_now().await;
    // By another name of this machine, which the program does not know: what goes there has to be encrypted, or to be told not to.
    let elsewhere = good.replace("@127.0.0.1:", "@127.1:");
    write(&elsewhere);
    let found = doctor(&place, &[]).await;
    says(&found, "connection", "problem", &["no safe connection", "sslrootcert=FILE", "sslmode=disable"]);
    let url = place.url.replace("@127.0.0.1:", "@127.1:");
    write(&elsewhere.replace(&url, &format!("{url}?sslmode=disable")));
    let found = doctor(&place, &[]).await;
    says(&found, "tls", "warning", &["source.main", "sslmode=verify-full"]);
    says(&found, "tls", "warning", &["sink.out", "amqps://"]);
}

/// Runs a script of `tests/services` on the folder of a server; what it starts ends with the server.
async fn beside(server: &PrivateServer, name: &str, argument: &str) -> String {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(name));
    let output = script.arg(server.folder()).arg(argument).output().await.unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let url = [name.trim_end_matches(".sh"), argument].join("-");
    let url = server.folder().join(format!("{}.url", url.trim_end_matches('-')));
    std::fs::read_to_string(url).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_replica_and_a_pooler() {
    let server = PrivateServer::postgres("").await;
    let primary = AnyPool::connect(&server.url, 2).await.unwrap();
    barid::store::schema::apply(&primary).await.unwrap();
    let place = Place::new(Kind::Postgres).await;
    let good = std::fs::read_to_string(place.config()).unwrap();
    let standby = beside(&server, "standby.sh", "").await;
    let replica = PgPool::connect(&standby).await.unwrap();
    eventually(PATIENCE, "the replica has the schema", async || {
        let asked = "SELECT to_regclass('idempotency_keys') IS NOT NULL";
        sqlx::query_scalar(AssertSqlSafe(asked)).fetch_one(&replica).await.unwrap()
    })
    .await;
    replica.close().await;
    std::fs::write(place.config(), good.replace(&place.url, &standby)).unwrap();
    says(&doctor(&place, &[]).await, "replica", "problem", &["is a replica", "url to the primary"]);
    let pooled = beside(&server, "pgbouncer.sh", "transaction").await;
    std::fs::write(place.config(), good.replace(&place.url, &pooled)).unwrap();
    says(&doctor(&place, &[]).await, "pooler", "problem", &["pooler in transaction mode"]);
}
