//! Each bench runs to its end on a tiny size, and their last line can be read by a machine. What they measure is no
//! matter here.

#![allow(clippy::unwrap_used)]

use std::process::Command;

fn last_line(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_barid-bench")).args(arguments).output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}{complained}");
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {last:?}"))
}

fn check(bench: &str, arguments: &[&str]) {
    let all: Vec<_> = [bench].iter().chain(arguments).copied().chain(["--rounds", "1"]).collect();
    let json = last_line(&all);
    assert_eq!(json["bench"], bench);
    for figure in ["ours", "bare", "ratio"] {
        assert!(json[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} in {json}");
    }
}

#[test]
fn handle() {
    for database in ["postgres", "mariadb"] {
        check("handle", &["--database", database, "--messages", "100", "--in-flight", "4"]);
    }
}

#[test]
fn handle_in_batches() {
    for database in ["postgres", "mariadb", "sqlite"] {
        let common = ["--database", database, "--batch", "50"];
        check("handle", &[&common[..], &["--messages", "300", "--in-flight", "4"]].concat());
    }
}

/// 200,000 messages in `tests/run --long`, otherwise as many as show that it is looked at.
#[test]
fn memory_stays_flat() {
    let messages = if barid_tests::servers::long() { "200000" } else { "4000" };
    for database in ["postgres", "mariadb", "sqlite"] {
        check("handle", &["--database", database, "--batch", "50", "--memory", "--messages", messages]);
    }
}

#[test]
fn drain() {
    check("drain", &["--sink", "rabbitmq", "--rows", "200"]);
    check("drain", &["--sink", "rabbitmq", "--queue", "classic", "--rows", "200"]);
    check("drain", &["--sink", "kafka", "--rows", "200"]);
}

#[test]
fn latency() {
    for sink in ["rabbitmq", "kafka"] {
        check("latency", &["--sink", sink, "--rate", "200", "--samples", "100"]);
    }
    check("latency", &["--wake", "poll", "--rate", "200", "--samples", "100"]);
}

#[test]
fn held_snapshot() {
    check("held-snapshot", &["--rate", "200", "--seconds", "6"]);
}

#[test]
fn backlog() {
    check("backlog", &["--rows", "3000", "--first", "1000", "--memory-rows", "1000"]);
}

#[test]
fn wal() {
    check("wal", &["--events", "500"]);
}

#[test]
fn distributed() {
    check("distributed", &["--transactions", "40", "--in-flight", "4", "--slices", "2"]);
}

#[test]
fn idle() {
    for database in ["postgres", "mariadb"] {
        check("idle", &["--database", database, "--settle", "1", "--seconds", "8"]);
    }
}
