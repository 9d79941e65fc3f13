//! `/metrics` of the real program on each database: what it says is what happened.

#![allow(clippy::unwrap_used)] // a test

use std::collections::BTreeMap;

use barid_tests::http::Client;
use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};
use barid_tests::{Process, eventually, promtool};

/// On a free port, and looking at the database often.
const ADMIN: &str = "\n[admin]\nlisten = \"127.0.0.1:0\"\nsurvey_ms = 500\n";

async fn admin_of(relay: &mut Process) -> Client {
    let line = relay.line_with("listening for /livez", PATIENCE).await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    Client::new(address.unwrap_or_else(|| panic!("no address in {line}")).parse().unwrap())
}

/// Every sample by its name and labels.
async fn samples(admin: &Client) -> BTreeMap<String, f64> {
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// Waits until each of these samples has this value.
async fn until(admin: &Client, what: &str, wanted: &[(String, f64)]) {
    eventually(PATIENCE, what, async || {
        let samples = samples(admin).await;
        let missing: Vec<_> =
            wanted.iter().filter(|(name, value)| samples.get(name) != Some(value)).collect();
        // Shown when the test fails.
        missing.iter().for_each(|(name, value)| println!("{name} is {:?}, not {value}", samples.get(name)));
        missing.is_empty()
    })
    .await;
}

fn name(metric: &str, labels: &str) -> String {
    format!("barid_relay_{metric}{{source=\"main\"{labels}}}")
}

#[tokio::test]
async fn what_is_published_parked_and_left_is_counted() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        place.configure_with("queue:*", ADMIN);
        let there = format!("queue:{}", place.there);
        for (destination, key) in [
            (there.as_str(), "a"),
            (there.as_str(), "a"),
            (there.as_str(), "b"),
            ("topic:nowhere", "c"),
            (there.as_str(), "c"),
        ] {
            place.insert(&Hand::new(destination, key, "{}")).await;
        }
        let mut relay = place.relay();
        let admin = admin_of(&mut relay).await;
        place.until_parked(2).await;
        let route = format!(",sink=\"out\",destination=\"{there}\"");
        let sink = ",sink=\"out\"";
        let wanted = [
            (name("answers_total", &format!("{route},answer=\"confirmed\"")), 3.0),
            (name("answers_total", &format!("{route},answer=\"unknown\"")), 0.0),
            (name("published_total", &route), 3.0),
            (name("commit_to_confirm_seconds_count", sink), 3.0),
            (name("commit_to_confirm_seconds_bucket", &format!("{sink},le=\"3600\"")), 3.0),
            (name("in_flight_rows", sink), 0.0),
            (name("sink_up", sink), 1.0),
            (name("sink_blocked", sink), 0.0),
            (name("source_up", ""), 1.0),
            (name("lease_held", ""), 1.0),
            (name("lease_epoch", ""), 1.0),
            (name("buffered_rows", ""), 0.0),
            (name("parked_total", ",state=\"poison\""), 1.0),
            (name("parked_total", ",state=\"behind\""), 1.0),
            (name("parked_messages", ",state=\"poison\""), 1.0),
            (name("parked_messages", ",state=\"skipped\""), 0.0),
            (name("blocked_keys", ""), 1.0),
            (name("pending_messages", ""), 0.0),
            (name("oldest_pending_age_seconds", ""), 0.0),
            (name("survey_failures_total", ""), 0.0),
        ];
        until(&admin, &format!("{kind:?}"), &wanted).await;
        let all = samples(&admin).await;
        let sum = all[&name("commit_to_confirm_seconds_sum", sink)];
        assert!(sum > 0.0 && sum < 3.0 * PATIENCE.as_secs_f64(), "{kind:?}: {sum} s by the database's clock");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

#[tokio::test]
async fn a_dead_broker_shows_and_makes_nothing_unready() {
    let place = Place::new(Kind::Postgres).await;
    place.configure_with("queue:*", ADMIN);
    let config = std::fs::read_to_string(place.config()).unwrap();
    let config = config.replace(&barid_tests::servers::amqp(), "amqp://nobody:nothing@127.0.0.1:1/%2f");
    std::fs::write(place.config(), config).unwrap();
    place.insert(&Hand::new("queue:somewhere", "a", "{}")).await;
    let mut relay = place.relay();
    let admin = admin_of(&mut relay).await;
    let wanted = [
        (name("pending_messages", ""), 1.0),
        (name("sink_up", ",sink=\"out\""), 0.0),
        (name("source_up", ""), 1.0),
    ];
    until(&admin, "one message waits", &wanted).await;
    let age = samples(&admin).await[&name("oldest_pending_age_seconds", "")];
    eventually(PATIENCE, "its age grows", async || {
        samples(&admin).await[&name("oldest_pending_age_seconds", "")] > age
    })
    .await;
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/livez").await.status, 200);
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn prometheus_finds_nothing_to_complain_about() {
    let place = Place::new(Kind::Sqlite).await;
    place.configure_with("queue:*", ADMIN);
    place.insert(&Hand::new(&format!("queue:{}", place.there), "a", "{}")).await;
    let mut relay = place.relay();
    let admin = admin_of(&mut relay).await;
    until(&admin, "all kinds of samples", &[(name("commit_to_confirm_seconds_count", ",sink=\"out\""), 1.0)])
        .await;
    let answer = admin.get("/metrics").await;
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    std::fs::write(&page, &answer.body).unwrap();
    let checked = promtool(&["check", "metrics"], &page, folder.path());
    let said =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
    // And it would complain.
    std::fs::write(&page, "# TYPE a counter\na 1\n").unwrap();
    assert!(!promtool(&["check", "metrics"], &page, folder.path()).status.success());
    assert!(relay.terminate(PATIENCE).await.0.success());
}
