//! Very many parked messages: they do not fill the relay's memory, and too many held keys halt it with a line that says what
//! to do.

use barid_relay::source::HELD_KEYS_MAX;
use barid_tests::{Process, servers};

use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};

const COLUMNS: &str =
    "source, id, seq, destination, aggregatetype, aggregateid, type, payload, created_at, state, last_error";

/// Parks messages as a relay would have done: `count` of them, the key being what `key` says of the number `n`. The first
/// is poison, the others are as `state` says.
async fn park_many(place: &Place, count: usize, key: &str, state: &str, bytes: usize) {
    let to = format!("'queue:{}'", place.there);
    let (numbers, id, payload, now) = match place.kind {
        Kind::Postgres => (
            format!("generate_series(1, {count}) AS g (n)"),
            "gen_random_uuid()",
            format!("convert_to(repeat('x', {bytes}), 'UTF8')"),
            "now()",
        ),
        Kind::MariaDb => (
            format!("(SELECT seq AS n FROM seq_1_to_{count}) AS g"),
            "UNHEX(REPLACE(UUID(), '-', ''))",
            format!("REPEAT('x', {bytes})"),
            "UTC_TIMESTAMP(6)",
        ),
        Kind::Sqlite => (
            format!(
                "(WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) SELECT n FROM c) AS g"
            ),
            "randomblob(16)",
            format!("CAST(printf('%.*c', {bytes}, 'x') AS BLOB)"),
            "0",
        ),
    };
    let state = format!("CASE WHEN n = 1 THEN 'poison' ELSE '{state}' END");
    place.execute(&format!(
        "INSERT INTO relay_parked ({COLUMNS}) SELECT 'main', {id}, n, {to}, 'order', {key}, 'orders.placed', {payload}, {now}, \
         {state}, 'no such queue' FROM {numbers}"
    ))
    .await;
    // As if those rows had been in the outbox.
    match place.kind {
        Kind::Postgres => {
            place.execute(&format!("SELECT setval(pg_get_serial_sequence('outbox', 'seq'), {count})")).await
        }
        Kind::MariaDb => place.execute(&format!("ALTER TABLE outbox AUTO_INCREMENT = {}", count + 1)).await,
        Kind::Sqlite => {
            place.execute(&format!("INSERT INTO sqlite_sequence VALUES ('outbox', {count})")).await
        }
    }
}

/// The number `n` as a key of its own.
fn own_key(place: &Place) -> &'static str {
    if place.kind == Kind::MariaDb { "CAST(n AS CHAR)" } else { "CAST(n AS text)" }
}

#[tokio::test]
async fn too_many_held_keys_halt_the_relay_and_it_says_what_to_do() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        park_many(&place, HELD_KEYS_MAX + 1, own_key(&place), "poison", 1).await;
        let mut relay = place.relay();
        let status = relay.ended(PATIENCE).await;
        let said = relay.log().join("\n");
        assert_eq!(status.code(), Some(1), "{kind:?}: {said}");
        let line = "100001 keys are held by parked messages, more than the 100000 that a relay keeps in mind";
        assert!(said.contains(line) && said.contains("barid-relay parked groups"), "{kind:?}: {said}");
        // One less may be held. Then one more is parked while it runs.
        let skipped = place.json(&["skip", "--key", "order/7", "--reason", "one less"]).await;
        assert_eq!(skipped["messages"], 1, "{kind:?}");
        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        place.insert(&Hand::new("topic:nowhere", "one more", "")).await;
        let status = relay.ended(PATIENCE).await;
        let said = relay.log().join("\n");
        assert_eq!(status.code(), Some(1), "{kind:?}: {said}");
        assert!(said.contains("has halted") && said.contains(line), "{kind:?}: {said}");
        // Whoever follows the advice gets it going.
        let released = place.json(&["skip", "--all", "--reason", "nobody needs them"]).await;
        assert!(released["messages"].as_u64().unwrap() >= 100_000, "{kind:?}: {released}");
        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        place.insert(&Hand::new(&format!("queue:{}", place.there), "fine", "flows")).await;
        assert_eq!(place.received(&place.there, 1).await[0].body, "flows", "{kind:?}");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn parked_messages_do_not_fill_the_memory() {
    const BYTES: usize = 4_000;
    let count: usize = if servers::long() { 140_000 } else { 20_000 };
    for kind in if servers::long() { &KINDS[..] } else { &KINDS[..1] } {
        let place = Place::new(*kind).await;
        let mut idle = place.relay();
        idle.line_with("claimed the outbox", PATIENCE).await;
        let before = peak_kib(&idle);
        assert!(idle.terminate(PATIENCE).await.0.success());

        park_many(&place, count, "'one'", "behind", BYTES).await;
        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        let held = peak_kib(&relay);
        let more = 24 * 1024;
        assert!(
            held < before + more,
            "{kind:?}: {before} KiB without parked messages, {held} KiB with {count}"
        );
        // They are put back page by page, too, by the database itself.
        assert_eq!(place.json(&["retry", "--all", "--reason", "all"]).await["messages"], 1);
        relay.line_with("put released messages back into the outbox", PATIENCE).await;
        place.until("nothing is parked", "SELECT count(*) FROM relay_parked", 0).await;
        relay.kill().await;
    }
}
