//! `barid-relay replay` and `barid-relay explain` on each database, with and without a running relay, in both output forms, with
//! each exit code.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};
use barid_tests::{Process, TestDatabase};
use serde_json::Value;
use uuid::Uuid;

#[path = "replay/explained.rs"]
mod explained;

/// A place whose relay archives.
async fn place(kind: Kind) -> Place {
    let place = Place::new(kind).await;
    let text = std::fs::read_to_string(place.config()).unwrap();
    let text = text.replace("[source.main]\n", "[source.main]\nafter = \"archive\"\narchive_for_s = 3600\n");
    std::fs::write(place.config(), text).unwrap();
    place
}

/// How a command ended, and what it said as a program reads it.
async fn json(place: &Place, arguments: &[&str]) -> (i32, Value) {
    let (code, said) = place.command(&[arguments, &["--output", "json"]].concat()).await;
    let end = said.rfind('}').map_or(0, |at| at + 1);
    (
        code,
        serde_json::from_str(&said[..end]).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}")),
    )
}

/// Rows in the outbox, and in the archive.
async fn counts(place: &Place) -> (i64, i64) {
    let outbox = place.number("SELECT count(*) FROM outbox").await;
    (outbox, place.number("SELECT count(*) FROM relay_archive").await)
}

async fn until_archived(place: &Place, rows: i64) {
    place.until("the rows are archived", "SELECT count(*) FROM relay_archive", rows).await;
}

const WHY: [&str; 2] = ["--reason", "the consumer lost its database"];

#[tokio::test]
async fn messages_are_replayed_by_id_key_and_time_and_archived_again() {
    for kind in KINDS {
        let place = place(kind).await;
        let there = format!("queue:{}", place.there);
        let mut ids = Vec::new();
        for (key, body) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")] {
            ids.push(place.insert(&Hand::new(&there, key, body)).await);
        }
        ids.push(place.insert(&Hand { key: None, name: "other", ..Hand::new(&there, "", "5") }).await);
        let relay = place.relay();
        place.received(&place.there, 5).await;
        until_archived(&place, 5).await;
        assert_eq!(counts(&place).await, (0, 5), "{kind:?}");

        // Counted only.
        let of_a = [&["replay", "--key", "order/a"][..], &WHY].concat();
        let (code, counted) = json(&place, &[&of_a[..], &["--dry-run"]].concat()).await;
        assert_eq!((code, &counted["messages"], &counted["keys"]), (0, &3.into(), &1.into()), "{counted}");
        assert_eq!((&counted["dry_run"], &counted["action"]), (&true.into(), &"replay".into()));
        let (code, said) = place.command(&[&of_a[..], &["--dry-run"]].concat()).await;
        assert!(code == 0 && said.contains("would replay 3 messages of 1 keys, published from "), "{said}");
        assert_eq!(counts(&place).await, (0, 5), "{kind:?}");
        assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0, "{kind:?}");

        // One message: with its id, its key, its body.
        let (code, said) = json(&place, &[&["replay", &ids[1].to_string()][..], &WHY].concat()).await;
        assert_eq!((code, &said["messages"], &said["dry_run"]), (0, &1.into(), &false.into()), "{said}");
        let again = place.received(&place.there, 1).await;
        assert_eq!(
            (again[0].id, again[0].key.as_str(), again[0].body.as_str()),
            (ids[1], "b", "2"),
            "{kind:?}"
        );
        until_archived(&place, 5).await;

        // A key, in its order.
        let (code, said) = place.command(&of_a).await;
        assert!(code == 0 && said.contains("replay: 3 messages of 1 keys"), "{said}");
        assert!(!said.contains('\r') && !said.contains(" left"), "nobody sits at a terminal: {said:?}");
        let again: Vec<Uuid> = place.received(&place.there, 3).await.iter().map(|copy| copy.id).collect();
        assert_eq!(again, [ids[0], ids[2], ids[3]], "{kind:?}");
        until_archived(&place, 5).await;

        // A time, and what else is named.
        let of_type =
            [&["replay", "--from", "1h", "--type", "other", "--destination", &there][..], &WHY].concat();
        assert_eq!(json(&place, &of_type).await.1["messages"], 1, "{kind:?}");
        assert_eq!(place.received(&place.there, 1).await[0].id, ids[4], "{kind:?}");
        until_archived(&place, 5).await;
        let ended = [&["replay", "--until", "1970-01-01T00:00:00Z"][..], &WHY].concat();
        let (code, said) = place.command(&ended).await;
        assert!(code == 6 && said.contains("published until = 1970-01-01"), "{code} {said}");
        let all = [&["replay", "--until", "2100-01-01T00:00:00+01:00"][..], &WHY].concat();
        assert_eq!(json(&place, &all).await.1["messages"], 5, "{kind:?}");
        assert_eq!(place.received(&place.there, 5).await.len(), 5);
        until_archived(&place, 5).await;

        let audit = "SELECT count(*) FROM relay_audit WHERE source = 'main' AND action = 'replay' \
            AND reason = 'the consumer lost its database' AND who <> '' AND changed_at IS NOT NULL";
        assert_eq!(place.number(audit).await, 4, "{kind:?}");
        let selections = place.texts("SELECT selection FROM relay_audit ORDER BY id").await;
        assert_eq!(selections[..2], [format!("id = {}", ids[1]), "key = order/a".to_owned()], "{kind:?}");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

/// So many archived rows of ten keys, in order: the body says which.
async fn fill(place: &Place, rows: i64) {
    let (id, name, time) = match place.kind {
        Kind::Postgres => ("gen_random_uuid()", "type", "now()"),
        Kind::MariaDb => ("UNHEX(REPLACE(UUID(), '-', ''))", "`type`", "UTC_TIMESTAMP(6)"),
        Kind::Sqlite => {
            ("randomblob(16)", "type", "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)")
        }
    };
    let body = match place.kind {
        Kind::Postgres => "convert_to(i::text, 'UTF8'), '{}'::jsonb",
        Kind::MariaDb => "CAST(i AS CHAR), '{}'",
        Kind::Sqlite => "CAST(i AS BLOB), '{}'",
    };
    let key = if place.kind == Kind::MariaDb { "CAST(i MOD 10 AS CHAR)" } else { "CAST(i % 10 AS TEXT)" };
    let limit = if place.kind == Kind::MariaDb { "SET max_recursive_iterations = 1000000; " } else { "" };
    let numbers =
        format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    let columns = format!(
        "source, id, seq, created_at, destination, aggregatetype, aggregateid, {name}, payload, headers, published_at"
    );
    let select = format!(
        "SELECT 'main', {id}, i, {time}, 'queue:{}', 'order', {key}, 'm', {body}, {time} FROM n ORDER BY i",
        place.there
    );
    place
        .execute(&match place.kind {
            Kind::MariaDb => format!("{limit}INSERT INTO relay_archive ({columns}) {numbers} {select}"),
            _ => format!("{numbers} INSERT INTO relay_archive ({columns}) {select}"),
        })
        .await;
}

async fn bodies(place: &Place, table: &str, order: &str) -> Vec<String> {
    let body = match place.kind {
        Kind::Postgres => "convert_from(payload, 'UTF8')",
        Kind::MariaDb => "CONVERT(payload USING utf8mb4)",
        Kind::Sqlite => "CAST(payload AS TEXT)",
    };
    place.texts(&format!("SELECT {body} FROM {table} ORDER BY {order}")).await
}

/// Many transactions, and two operators at once: every message goes back once, and in the order in which it was published.
#[tokio::test]
async fn two_operators_replay_everything_at_once() {
    for kind in KINDS {
        let place = place(kind).await;
        fill(&place, 3_500).await;
        let before = bodies(&place, "relay_archive", "position").await;
        let config = place.config();
        let replay = || Process::relay(["replay", "--all", "--reason", "restored", "--config", &config]);
        let (mut one, mut other) = (replay(), replay());
        let codes = [one.ended(PATIENCE).await.code(), other.ended(PATIENCE).await.code()];
        assert!(
            codes.contains(&Some(0)) && codes.iter().all(|code| [Some(0), Some(6)].contains(code)),
            "{codes:?}"
        );
        assert_eq!(counts(&place).await, (3_500, 0), "{kind:?}");
        assert_eq!(bodies(&place, "outbox", "seq").await, before, "{kind:?}: each once, in order");
        let sum = match kind {
            Kind::Postgres => "sum(messages)::bigint",
            Kind::MariaDb => "CAST(sum(messages) AS SIGNED)",
            Kind::Sqlite => "sum(messages)",
        };
        let audited = place.number(&format!("SELECT {sum} FROM relay_audit")).await;
        assert_eq!(audited, 3_500, "{kind:?}: each transaction is written down");
        let (code, said) = place.command(&["replay", "--all", "--reason", "again"]).await;
        assert!(
            code == 6 && said.contains("nothing in the archive is what was asked for: all"),
            "{code} {said}"
        );
    }
}

/// Page after page keeps the order of each key, and each page is written down with its number.
#[tokio::test]
async fn many_messages_are_replayed_in_order() {
    for kind in KINDS {
        let place = place(kind).await;
        fill(&place, 2_500).await;
        let before = bodies(&place, "relay_archive", "position").await;
        let (code, said) = json(&place, &["replay", "--all", "--reason", "restored"]).await;
        assert_eq!(
            (code, &said["messages"], &said["keys"]),
            (0, &2_500.into(), &10.into()),
            "{kind:?}: {said}"
        );
        assert_eq!(bodies(&place, "outbox", "seq").await, before, "{kind:?}");
        let pages = "SELECT count(*) FROM relay_audit WHERE messages IN (1000, 500) AND selection = 'all'";
        assert_eq!(place.number(pages).await, 3, "{kind:?}");
    }
}

/// The database refuses in the middle: whole transactions are done, which is said, and the rest can be done later.
#[tokio::test]
async fn what_is_cut_off_is_done_in_whole_transactions() {
    let place = place(Kind::Sqlite).await;
    fill(&place, 2_500).await;
    place
        .execute(
            "CREATE TRIGGER full BEFORE INSERT ON outbox WHEN (SELECT count(*) FROM outbox) = 1500 \
             BEGIN SELECT RAISE(ABORT, 'the outbox is full'); END",
        )
        .await;
    let (code, said) = place.command(&["replay", "--all", "--reason", "restored"]).await;
    assert!(code == 4 && said.contains("1000 of 2500 messages were replayed"), "{code} {said}");
    assert!(said.contains("the outbox is full") && said.contains("run it again"), "{said}");
    assert_eq!(counts(&place).await, (1_000, 1_500));
    place.execute("DROP TRIGGER full").await;
    let (code, said) = json(&place, &["replay", "--all", "--reason", "once more"]).await;
    assert_eq!((code, &said["messages"]), (0, &1_500.into()), "{said}");
    let expected: Vec<String> = (1..=2_500).map(|at| at.to_string()).collect();
    assert_eq!(bodies(&place, "outbox", "seq").await, expected);
}

/// A table of somebody else gets back what came from it.
#[tokio::test]
async fn what_came_from_another_table_goes_back_there() {
    let place = place(Kind::Postgres).await;
    place
        .execute(
            "CREATE TABLE legacy (seq bigserial PRIMARY KEY, id uuid NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), \
             destination text NOT NULL, aggregatetype text NOT NULL, aggregateid text, type text NOT NULL, payload bytea, \
             headers jsonb NOT NULL DEFAULT '{}', tracingspancontext text)",
        )
        .await;
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), text.replace("[source.main]\n", "[source.main]\ntable = \"legacy\"\n"))
        .unwrap();
    let id = Uuid::now_v7();
    let row = format!(
        "INSERT INTO legacy (id, destination, aggregatetype, aggregateid, type, payload) \
         VALUES ('{id}', 'queue:{}', 'order', 'a', 'm', '1')",
        place.there
    );
    place.execute(&row).await;
    let relay = place.relay();
    assert_eq!(place.received(&place.there, 1).await[0].id, id);
    until_archived(&place, 1).await;
    assert_eq!(place.command(&["replay", &id.to_string(), "--reason", "lost"]).await.0, 0);
    assert_eq!(place.received(&place.there, 1).await[0].id, id);
    until_archived(&place, 1).await;
    assert_eq!((place.number("SELECT count(*) FROM legacy").await, counts(&place).await), (0, (0, 1)));
    assert_eq!(place.command(&["explain", &id.to_string()]).await.0, 0);
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn exit_codes_are_those_of_the_help() {
    let place = place(Kind::Postgres).await;
    let unknown = Uuid::now_v7().to_string();
    let because = |arguments: &[&'static str]| [arguments, &WHY].concat();
    for (arguments, expected, text) in [
        (vec!["replay", "--all"], 2, "--reason"),
        (vec!["replay", "--all", "--reason", ""], 2, "--reason"),
        (because(&["replay"]), 2, "which messages?"),
        (because(&["replay", "--from", "yesterday"]), 2, "2026-03-29T10:00:00Z"),
        (because(&["replay", "--key", "a"]), 2, "AGGREGATETYPE/AGGREGATEID"),
        (because(&["replay", "--source", "other", "--all"]), 2, "sources: main"),
        (vec!["replay", &unknown, "--all", "--reason", "x"], 2, "--all"),
        (vec!["replay", &unknown, "--reason", "x"], 6, &unknown),
        (vec!["explain"], 2, "<ID>"),
        (vec!["explain", "7"], 2, "7"),
        (vec!["explain", &unknown, "--source", "other"], 2, "sources: main"),
        (vec!["explain", &unknown], 6, "no source has message"),
    ] {
        let (code, said) = place.command(&arguments).await;
        assert!(code == expected && said.contains(text), "{arguments:?}: {code}\n{said}");
    }
    for (command, texts) in [
        ("replay", &["relay_audit", "--dry-run", "keeps its id", "6 nothing in the archive", "--until"][..]),
        ("explain", &["needs no running relay", "never committed", "6 no source has it"]),
    ] {
        let (code, help) = place.command(&[command, "--help"]).await;
        assert_eq!(code, 0);
        for text in texts {
            assert!(help.contains(text), "{text:?} is not in\n{help}");
        }
    }
    let good = std::fs::read_to_string(place.config()).unwrap();
    let empty = TestDatabase::postgres().await;
    let deletes = good.replace("after = \"archive\"\narchive_for_s = 3600\n", "");
    for (config, expected, text) in [
        (deletes.as_str(), 6, "the source has after = \"delete\""),
        ("[source.main]\nulr = \"x\"\n", 3, "ulr"),
        (&good.replace(&place.url, "postgres://nobody@127.0.0.1:1/nothing"), 4, "127.0.0.1:1"),
        (&good.replace(&place.url, &empty.url), 5, "barid-relay schema apply"),
    ] {
        std::fs::write(place.config(), config).unwrap();
        let (code, said) = place.command(&because(&["replay", "--all"])).await;
        assert!(code == expected && said.contains(text), "{code}\n{said}");
        let (code, said) = place.command(&["explain", &unknown]).await;
        assert_eq!(code, expected, "{said}");
    }
    empty.drop_now().await;
}
