//! The admin server of the real program: what it answers, whom it refuses, and what cannot hurt it.

#![allow(clippy::unwrap_used)] // a test

use std::time::Duration;

use barid_tests::http::Client;
use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};
use barid_tests::{Process, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn section(more: &str) -> String {
    format!("\n[admin]\nlisten = \"127.0.0.1:0\"\nsurvey_ms = 500\n{more}\n")
}

async fn admin_of(relay: &mut Process) -> Client {
    let line = relay.line_with("listening for /livez", PATIENCE).await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Client::new(address.unwrap_or_else(|| panic!("no address in {line}")).parse().unwrap())
}

/// A place with a token in a file, a relay at work, and three messages parked: a poison one, one behind it, one without a key.
async fn at_work(kind: Kind) -> (Place, Process, Client, Vec<Uuid>) {
    let place = Place::new(kind).await;
    let file = std::path::Path::new(&place.config()).with_file_name("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    place.configure_with("queue:*", &section(&format!("token_file = {file:?}")));
    let there = format!("queue:{}", place.there);
    let mut ids = Vec::new();
    for (destination, key) in
        [("topic:nowhere", Some("a")), (there.as_str(), Some("a")), ("topic:nowhere", None)]
    {
        ids.push(place.insert(&Hand { key, ..Hand::new(destination, "", "S3CR3T-BODY") }).await);
    }
    let mut relay = place.relay();
    let admin = Client { token: Some(TOKEN.to_owned()), ..admin_of(&mut relay).await };
    place.until_parked(3).await;
    (place, relay, admin, ids)
}

fn ids_of(list: &Value) -> Vec<String> {
    let messages = list["messages"].as_array().unwrap().iter();
    messages.map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn parked_messages_are_found_sent_again_and_skipped() {
    for kind in KINDS {
        let (place, relay, admin, ids) = at_work(kind).await;
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let parked = "/api/sources/main/parked";
        for (query, expected) in [
            ("", &ids[..]),
            ("?state=behind", &ids[1..2]),
            ("?state=poison,skipped&key=order/a", &ids[..1]),
            ("?destination=topic:nowhere&older_than=0s&limit=1000", &[ids[0].clone(), ids[2].clone()]),
            ("?newer_than=1h&type=orders.placed&key=order%2Fa", &ids[..2]),
            ("?older_than=1h", &[]),
        ] {
            let answer = admin.get(&format!("{parked}{query}")).await;
            assert_eq!(ids_of(&answer.json()), expected, "{kind:?} {query}: {answer:?}");
            assert!(!answer.body.contains("S3CR3T-BODY"), "{answer:?}");
        }
        let first = admin.get(&format!("{parked}?limit=2")).await.json();
        let next = first["next"].as_str().unwrap();
        let second = admin.get(&format!("{parked}?after={next}")).await.json();
        assert_eq!((ids_of(&first).len(), ids_of(&second)), (2, ids[2..].to_vec()));
        assert_eq!(second["next"], Value::Null);
        let groups = admin.get(&format!("{parked}/groups?state=poison")).await.json();
        assert_eq!(groups["groups"][0]["messages"], 2, "{groups}");
        let shown = admin.get(&format!("{parked}/{}", ids[0])).await;
        assert!(shown.status == 200 && !shown.body.contains("S3CR3T-BODY"), "{shown:?}");
        let shown = admin.get(&format!("{parked}/{}?body=true", ids[0])).await.json();
        assert_eq!(shown["messages"][0]["body"], "S3CR3T-BODY");

        // Counted, not done.
        let all = json!({"key": "order/a", "reason": "queue declared", "dry_run": true});
        let dry = admin.post(&format!("{parked}/skip"), &all).await.json();
        assert_eq!((&dry["messages"], &dry["dry_run"]), (&json!(1), &json!(true)));
        assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0);
        // Gone on without it: what waited behind it is delivered.
        let skip = json!({"id": ids[0], "reason": "of no use any more", "by": "mallory's sister"});
        let skipped = admin.post(&format!("{parked}/skip"), &skip).await;
        assert_eq!(skipped.status, 200, "{skipped:?}");
        let copies = place.received(&place.there, 1).await;
        assert_eq!(copies[0].id.to_string(), ids[1]);
        let audit = "SELECT count(*) FROM relay_audit WHERE action = 'skip' AND who = 'mallory''s sister' \
            AND reason = 'of no use any more' AND messages = 1";
        assert_eq!(place.number(audit).await, 1);
        // Sent again: it has a route no more than before, and is parked once more.
        let retry = json!({"id": ids[2], "reason": "tried"});
        assert_eq!(admin.post(&format!("{parked}/retry"), &retry).await.status, 200);
        place
            .until("it was parked again", "SELECT count(*) FROM relay_parked WHERE state = 'poison'", 1)
            .await;
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let (place, relay, admin, ids) = at_work(Kind::Sqlite).await;
    let parked = "/api/sources/main/parked";
    let says = |answer: &barid_tests::http::Answer, status: u16, text: &str| {
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == status && error.contains(text), "not {status} {text:?}: {answer:?}");
    };
    for (path, status, text) in [
        ("/api/sources/other/parked", 404, "there is no source \"other\" (sources: main)"),
        ("/nowhere", 404, "/api/status"),
        ("/api/sources/main/parked?state=gone", 400, "poison, behind or skipped"),
        ("/api/sources/main/parked?stat=poison", 400, "stat"),
        ("/api/sources/main/parked?older_than=1", 400, "30s, 15m, 2h or 7d"),
        ("/api/sources/main/parked?limit=0", 400, "from 1 to 1000"),
        ("/api/sources/main/parked?limit=all", 400, "limit"),
        ("/api/sources/main/parked?after=7", 400, "SEQ:ID"),
        ("/api/sources/main/parked/7", 400, "no message id"),
        ("/api/sources/main/parked/00000000-0000-7000-8000-000000000000", 404, "is parked"),
    ] {
        says(&admin.get(path).await, status, text);
    }
    let id = ids[1].to_string();
    for (body, status, text) in [
        (json!({"all": true}), 422, "reason"),
        (json!({"all": true, "reason": " "}), 400, "reason"),
        (json!({"all": true, "reason": "x".repeat(5_000)}), 400, "at most"),
        (json!({"reason": "x"}), 400, "which messages?"),
        (json!({"all": true, "reason": "x", "fingerprnt": "x"}), 422, "fingerprnt"),
        (json!({"all": true, "reason": "x", "state": "behind"}), 400, "retry means nothing"),
        (json!({"id": id, "reason": "x"}), 404, "no such message is parked"),
        (json!({"key": "order/z", "reason": "x"}), 404, "no such message is parked"),
    ] {
        says(&admin.post(&format!("{parked}/retry"), &body).await, status, text);
    }
    assert_eq!(admin.get(&format!("{parked}/retry")).await.status, 405);
    assert_eq!(
        admin.post(&format!("{parked}/purge"), &json!({"all": true, "reason": "x"})).await.status,
        405
    );
    assert_eq!(place.number("SELECT count(*) FROM relay_parked").await, 3);
    assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0);
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn the_status_is_that_of_the_sources() {
    let (_place, relay, admin, _) = at_work(Kind::MariaDb).await;
    let source = async || admin.get("/api/status").await.json()["sources"][0].clone();
    eventually(PATIENCE, "a survey", async || source().await["parked"]["poison"] == 2).await;
    let source = source().await;
    for (name, expected) in [
        ("source", json!("main")),
        ("phase", json!("running")),
        ("ours", json!(true)),
        ("pending", json!(0)),
        ("pending_estimated", json!(false)),
        ("oldest_pending_seconds", Value::Null),
        ("blocked_keys", json!(1)),
        ("parked", json!({"poison": 2, "behind": 1, "skipped": 0})),
    ] {
        assert_eq!(source[name], expected, "{name} of {source:#}");
    }
    assert_eq!((&source["lease"]["state"], &source["lease"]["epoch"]), (&json!("held"), &json!(1)));
    assert_eq!((&source["sinks"][0]["sink"], &source["sinks"][0]["link"]), (&json!("out"), &json!("up")));
    assert_eq!((&source["since_start"]["poison"], &source["since_start"]["behind"]), (&json!(2), &json!(1)));
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn only_who_has_the_token_is_answered() {
    let (place, relay, admin, _) = at_work(Kind::Sqlite).await;
    let strangers = [None, Some("0123456789abcdef0123456789abcdeX"), Some(""), Some("0123456789abcdef")];
    for token in strangers {
        let stranger = Client { token: token.map(str::to_owned), ..admin.clone() };
        for path in ["/metrics", "/api/status", "/api/sources/main/parked"] {
            let answer = stranger.get(path).await;
            assert!(
                answer.status == 401 && answer.body.contains("Authorization: Bearer"),
                "{path}: {answer:?}"
            );
        }
        let all = json!({"all": true, "reason": "x"});
        assert_eq!(stranger.post("/api/sources/main/parked/retry", &all).await.status, 401);
        // Whoever watches over the process has no token, and learns nothing but that.
        let ready = stranger.get("/readyz").await;
        assert_eq!(ready.json(), json!({"ready": true, "sources": {"main": "running"}}));
        assert_eq!(stranger.get("/livez").await.body, "alive\n");
    }
    assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0);
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success() && !log.join("\n").contains(TOKEN));
}

#[tokio::test]
async fn without_a_token_this_machine_may_look_and_nobody_may_change() {
    let place = Place::new(Kind::Sqlite).await;
    place.configure_with("queue:*", &section(""));
    let mut relay = place.relay();
    let admin = admin_of(&mut relay).await;
    assert!(admin.address.ip().is_loopback());
    assert_eq!(admin.get("/metrics").await.status, 200);
    let answer = admin.post("/api/sources/main/parked/retry", &json!({"all": true, "reason": "x"})).await;
    assert!(answer.status == 403 && answer.body.contains("token_file"), "{answer:?}");
    // A page of somebody else, in a browser of this machine.
    let rebound = Client { host: format!("evil.example:{}", admin.address.port()), ..admin.clone() };
    assert_eq!(rebound.get("/api/status").await.status, 403);
    let answer = admin.get("/api/status").await;
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "frame-ancestors 'none'"] {
        assert!(answer.head.contains(header), "{header} is not in {}", answer.head);
    }
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn what_can_be_wrong_with_the_section_is_a_start_error() {
    let place = Place::new(Kind::Sqlite).await;
    let file = std::path::Path::new(&place.config()).with_file_name("token");
    std::fs::write(&file, "short").unwrap();
    let (short, there) = (format!("token_file = {file:?}"), "listen = \"0.0.0.0:0\"");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = format!("listen = \"{}\"", taken.local_addr().unwrap());
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = (format!("listen = \"{}\"", held.local_addr().unwrap()), held);
    for (section, code, text) in [
        (there, 3, "where others can reach it, and has no token"),
        ("listen = \"[::]:7118\"", 3, "where others can reach it, and has no token"),
        (
            "listen = \"localhost\"",
            3,
            "\"localhost\" is no IP address with a port; write for instance \"127.0.0.1:7118\"",
        ),
        ("token = \"short\"", 3, "at least 16 characters"),
        ("token = \"0123456789abcdef\"\ntoken_file = \"x\"", 3, "one of \"token\" and \"token_file\""),
        ("tokn = \"x\"", 3, "did you mean \"token\"?"),
        ("survey_ms = 1", 3, "survey_ms in [admin] must be at least 500"),
        (short.as_str(), 3, "holds fewer than 16 characters"),
        ("token_file = \"/nowhere/at/all\"", 3, "[admin]: token_file /nowhere/at/all"),
        (held.0.as_str(), 1, "cannot listen at 127.0.0.1:"),
    ] {
        place.configure_with("queue:*", &format!("\n[admin]\n{section}\n"));
        let (ended, said) = place.command(&["run"]).await;
        assert!(ended == code && said.contains(text), "{section}: {ended}, lacks {text:?}:\n{said}");
        assert!(!said.contains("0123456789abcdef"), "{said}");
    }
    drop(taken);
    // With a token others may reach it.
    std::fs::write(&file, TOKEN).unwrap();
    place.configure_with("queue:*", &format!("\n[admin]\n{there}\n{short}\n"));
    let mut relay = place.relay();
    let admin = admin_of(&mut relay).await;
    assert!(admin.address.ip().is_unspecified());
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_turned_away_and_others_are_answered() {
    let (_place, relay, admin, _) = at_work(Kind::Sqlite).await;
    let large = json!({"all": true, "reason": "x".repeat(20_000)});
    let answer = admin.post("/api/sources/main/parked/retry", &large).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    let head = format!("X-Large: {}\r\n", "x".repeat(20_000));
    let answer = admin.raw(&admin.head("GET", "/livez", &head)).await;
    assert_eq!(answer.status, 431, "{answer:?}");
    let text = "Content-Type: text/plain\r\nContent-Length: 2\r\n";
    let plain = admin.head("POST", "/api/sources/main/parked/retry", text) + "{}";
    assert_eq!(admin.raw(&plain).await.status, 415);
    // More connections than there are places, each of which says nothing: they are closed, and then others are answered.
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nX-Slow: ").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(admin.get("/livez").await.status, 200);
    let closed = async {
        let mut rest = Vec::new();
        // Reset or ended: either way it is over.
        let _ = silent[0].read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("a silent connection is closed");
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn a_source_that_failed_makes_the_process_unready_and_leaves_it_alive() {
    let place = Place::new(Kind::Sqlite).await;
    let other = Place::new(Kind::Sqlite).await;
    other.execute("DROP TABLE outbox").await;
    let more = format!("\n[source.broken]\nurl = {:?}\n{}", other.url, section(""));
    place.configure_with("queue:*", &more);
    let mut relay = place.relay();
    let admin = admin_of(&mut relay).await;
    let expected = json!({"ready": false, "sources": {"broken": "failed", "main": "running"}});
    eventually(PATIENCE, "one source has failed", async || admin.get("/readyz").await.json() == expected)
        .await;
    assert_eq!(admin.get("/readyz").await.status, 503);
    assert_eq!(admin.get("/livez").await.status, 200);
    let (status, _) = relay.terminate(PATIENCE).await;
    assert!(!status.success());
}
