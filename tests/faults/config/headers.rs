//! Headers that were made to hurt: row F79.

use barid_tests::{
    ledger::Fault,
    outbox::{Database, Posted},
    rig::Rig,
    servers, sql,
    sql::Session,
    tape::Tape,
};
use uuid::Uuid;

/// Commits a row whose headers are this text.
async fn post(db: &mut Session, rig: &Rig, posted: Posted, headers: &str) -> Uuid {
    let id = Uuid::now_v7();
    let (key, n) = (posted.key, posted.n);
    let row = format!("INSERT INTO load_row (id, number, n) VALUES ({}, {key}, {n})", db.id(id));
    let quoted = headers.replace('\\', if matches!(db, Session::MySql(_)) { "\\\\" } else { "\\" });
    let outbox = format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers) \
         VALUES ({}, '{}', 'load', '{key}', 'load.posted', {}, '{quoted}')",
        db.id(id),
        rig.tape.destination,
        db.bytes(&serde_json::to_vec(&posted).unwrap()),
    );
    db.begin().await.unwrap();
    db.execute(&row).await.unwrap();
    db.execute(&outbox).await.unwrap();
    db.execute("COMMIT").await.unwrap();
    id
}

async fn hurt(rig: Rig, nul: bool) {
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    let many = |count: usize, bytes: usize| {
        let value = "v".repeat(bytes);
        let all: Vec<String> = (0..count).map(|at| format!(r#""h{at}":"{value}""#)).collect();
        format!("{{{}}}", all.join(","))
    };
    // What makes no message, or would be more than one, is parked with a reason.
    let mut parked = vec![
        (r#"{"CC":"other"}"#.to_owned(), "copies"),
        (r#"{"BCC":"other"}"#.to_owned(), "copies"),
        (r#"{"a\r\nb":"1"}"#.to_owned(), "control characters"),
        (format!(r#"{{"{}":"1"}}"#, "n".repeat(256)), "255"),
        (many(10_000, 20), "fit a frame"),
    ];
    if nul {
        parked.push((r#"{"a\u0000b":"1"}"#.to_owned(), "control characters"));
    }
    let mut faults = Vec::new();
    let mut expected = Vec::new();
    for (at, (headers, says)) in (1_000..).zip(&parked) {
        let id = post(&mut db, &rig, Posted { key: at, n: 1 }, headers).await;
        // Behind it, and harmless.
        let behind = post(&mut db, &rig, Posted { key: at, n: 2 }, "{}").await;
        expected.extend([id, behind]);
        faults.push(Fault::new(format!("headers {:.40}", headers), format!("row {id}, {says}")));
    }
    // What is odd and harms nobody travels.
    for (at, headers) in (2_000..).zip([
        r#"{"x-death":"never"}"#,
        r#"{"v":"a\r\nX: y"}"#,
        r#"{"äöü ☺":"☺"}"#,
        &many(1_000, 20),
    ]) {
        post(&mut db, &rig, Posted { key: at, n: 1 }, headers).await;
    }
    load.more(100).await;
    let journal = load.stop().await;
    rig.drained().await;
    let mut found = rig.outbox.parked().await;
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "what was parked, and what was expected");
    for (at, (headers, says)) in (1_000..).zip(&parked) {
        let reason = format!(
            "SELECT count(*) FROM relay_parked WHERE aggregateid = '{at}' AND state = 'poison' \
             AND last_error LIKE '%{says}%'"
        );
        let count = sql::number(&rig.outbox.pool, &reason).await.unwrap();
        assert_eq!(count, 1, "{headers:.60} is not parked with a reason that says {says:?}");
    }
    // Nobody's neighbours came twice: no channel was closed.
    rig.settle_with(journal, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f79_headers_from_postgres_to_rabbitmq() {
    hurt(Rig::of(Database::Postgres).await, false).await;
}

#[tokio::test]
async fn f79_headers_from_mariadb_to_rabbitmq() {
    hurt(Rig::of(Database::MariaDb).await, true).await;
}

/// Kafka's client takes the name of a header for the text up to its first NUL.
#[tokio::test]
async fn f79_headers_from_sqlite_to_kafka() {
    let topic = barid_tests::names::kafka_topic("headers", 1).await;
    let rig = Rig::new(barid_tests::outbox::Outbox::new(Database::Sqlite).await, Tape::kafka(&topic));
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let bad = post(&mut db, &rig, Posted { key: 1_000, n: 1 }, r#"{"a\u0000b":"1"}"#).await;
    post(&mut db, &rig, Posted { key: 1_001, n: 1 }, r#"{"CC":"other","v":"\u0000"}"#).await;
    load.more(100).await;
    let journal = load.stop().await;
    rig.drained().await;
    assert_eq!(rig.outbox.parked().await, [bad]);
    let faults = vec![Fault::new("a NUL in a name", format!("row {bad} on {}", servers::kafka()))];
    rig.settle_with(journal, relay, 0, faults).await.assert_promises();
}
