//! `barid-relay status` on each database, with and without a running relay, in both output forms, with each exit code.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};
use barid_tests::{TestDatabase, eventually, servers};
use serde_json::{Value, json};

async fn status(place: &Place) -> Value {
    let (code, said) = place.command(&["status", "--output", "json"]).await;
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test]
async fn a_backlog_without_a_relay_and_parked_messages_with_one() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let there = format!("queue:{}", place.there);
        for (destination, key) in [("topic:nowhere", "a"), (there.as_str(), "a"), (there.as_str(), "b")] {
            place.insert(&Hand::new(destination, key, "{}")).await;
        }
        let before = status(&place).await;
        let source = &before["sources"][0];
        assert_eq!(
            (&source["source"], &source["pending"]),
            (&json!("main"), &json!(3)),
            "{kind:?}: {before:#}"
        );
        assert!(source["oldest_pending_seconds"].as_f64().unwrap() >= 0.0);
        assert_eq!(source["lease"], json!({"state": "never", "epoch": 0}));
        assert_eq!(before["sinks"][0]["ok"], true, "{before:#}");
        let transaction = &source["oldest_transaction_seconds"];
        assert_eq!(transaction.is_null(), kind == Kind::Sqlite, "{kind:?}: {transaction}");

        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        place.until_parked(2).await;
        let working = status(&place).await;
        let source = &working["sources"][0];
        assert_eq!(
            (&source["pending"], &source["blocked_keys"]),
            (&json!(0), &json!(1)),
            "{kind:?}: {working:#}"
        );
        assert_eq!(source["oldest_pending_seconds"], Value::Null);
        assert_eq!(source["parked"], json!({"poison": 1, "behind": 1, "skipped": 0}));
        assert_eq!((&source["lease"]["state"], &source["lease"]["epoch"]), (&json!("held"), &json!(1)));
        let owner = source["lease"]["owner"].as_str().unwrap().to_owned();
        assert!(owner.contains(&relay.id().unwrap().to_string()), "{owner} names the process");

        let (code, table) = place.command(&["status"]).await;
        assert_eq!(code, 0, "{table}");
        let line = |word: &str| {
            table
                .lines()
                .map(str::trim_start)
                .find(|line| line.starts_with(word))
                .unwrap_or_default()
                .to_owned()
        };
        for text in ["OWNER", "BLOCKED KEYS", "OLDEST TRANSACTION"] {
            assert!(line("SOURCE").contains(text), "{text} is not in\n{table}");
        }
        assert!(line("main").contains(&owner) && line("main").contains("held, "), "{table}");
        assert!(line("out").ends_with("ok"), "{table}");
        assert!(relay.terminate(PATIENCE).await.0.success());
        assert_eq!(status(&place).await["sources"][0]["lease"]["state"], "released");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_named_and_the_rest_is_shown() {
    let place = Place::new(Kind::Postgres).await;
    let good = std::fs::read_to_string(place.config()).unwrap();
    let write = |text: &str| std::fs::write(place.config(), text).unwrap();
    // A dead broker, and a database that nobody listens at.
    let dead = "amqp://nobody:S3CR3T-CANARY@127.0.0.1:1/%2f";
    let nowhere = "\n[source.nowhere]\nurl = \"postgres://nobody:S3CR3T-CANARY@127.0.0.1:1/x\"\n";
    write(&(good.replace(&servers::amqp(), dead) + nowhere));
    let (code, said) = place.command(&["status"]).await;
    assert_eq!(code, 4, "{said}");
    let shows = |word: &str, text: &str| {
        said.lines().map(str::trim_start).any(|line| line.starts_with(word) && line.contains(text))
    };
    assert!(shows("main", "never") && shows("nowhere", "FAILED") && shows("out", "FAILED"), "{said}");
    assert!(said.contains("[source.nowhere]: cannot reach") && said.contains("[sink.out]: "), "{said}");
    assert!(said.contains("2 of the checks above failed") && !said.contains("S3CR3T-CANARY"), "{said}");
    let (code, said) = place.command(&["status", "--source", "main", "--output", "json"]).await;
    assert_eq!(code, 0, "one source can be asked alone: {said}");
    let one: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((one["sources"].as_array().unwrap().len(), &one["sinks"]), (1, &json!([])));
    let (code, said) = place.command(&["status", "--source", "other"]).await;
    assert!(code == 2 && said.contains("no [source.other] (sources: main, nowhere)"), "{code} {said}");
    // The schema.
    let empty = TestDatabase::postgres().await;
    write(&good.replace(&place.url, &empty.url));
    let (code, said) = place.command(&["status"]).await;
    assert!(code == 5 && said.contains("barid-relay schema apply"), "{code} {said}");
    empty.drop_now().await;
    // The configuration.
    write("[source.main]\nulr = \"x\"\n");
    let (code, said) = place.command(&["status"]).await;
    assert!(code == 3 && said.contains("did you mean \"url\"?"), "{code} {said}");
    // What the help promises.
    let (code, help) = place.command(&["status", "--help"]).await;
    assert_eq!(code, 0);
    for text in ["4 cannot be reached", "5 the schema", "--output", "--source", "needs no running relay"] {
        assert!(help.contains(text), "{text:?} is not in\n{help}");
    }
}

/// Somebody who keeps the database from cleaning up shows, and a standby does not look like an owner.
#[tokio::test]
async fn an_open_transaction_grows_older() {
    let place = Place::new(Kind::Postgres).await;
    let barid::store::AnyPool::Postgres(pool) = &place.pool else { panic!("PostgreSQL") };
    let mut held = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox")
        .execute(&mut *held)
        .await
        .unwrap();
    let age = async || status(&place).await["sources"][0]["oldest_transaction_seconds"].as_f64().unwrap();
    eventually(PATIENCE, "the transaction is seen for two seconds", async || age().await >= 2.0).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut *held).await.unwrap();
    eventually(PATIENCE, "it is gone", async || age().await < 2.0).await;
}
