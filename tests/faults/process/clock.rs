//! Relays whose clocks are days away from that of the database and of each other: row F33.
//!
//! A library that is loaded in front of the C library shifts the wall clock of a process; the tests compile it.

use std::path::{Path, PathBuf};

use barid_tests::{
    Process,
    ledger::Fault,
    outbox::Database,
    rig::{HELD_MAX, PATIENCE, Rig},
};
use tokio::process::Command;

const DAYS: i64 = 24 * 3600;

async fn library(folder: &Path) -> PathBuf {
    let file = folder.join("clock.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&file);
    cc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/faults/process/clock.c")).arg("-ldl");
    assert!(cc.status().await.expect("a C compiler, as librdkafka needs it").success());
    file
}

fn relay(rig: &Rig, library: &Path, shift_s: i64) -> Process {
    let mut command = rig.relay_command();
    command.env("LD_PRELOAD", library).env("BARID_TEST_CLOCK_S", shift_s.to_string());
    Process::start(&mut command)
}

/// What the relay takes for now, by the time stamp of a line, is off by so much.
fn wrong_clock(line: &str, shift_s: i64) -> Fault {
    let stamp = line.split_whitespace().next().unwrap();
    let stamp = chrono::DateTime::parse_from_rfc3339(stamp).unwrap_or_else(|error| panic!("{error}: {line}"));
    let off = stamp.signed_duration_since(barid::clock::now()).num_seconds();
    assert!((off - shift_s).abs() < 600, "the clock is off by {off} s and not by {shift_s} s: {line}");
    Fault::new("a relay's clock was wrong", format!("off by {off} s: {line}"))
}

async fn with_wrong_clocks(database: Database) {
    let rig = Rig::of(database).await;
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path()).await;
    let load = rig.load().start().await;
    let mut early = relay(&rig, &library, 3 * DAYS);
    let mut faults = vec![wrong_clock(&early.line_with("claimed the outbox", PATIENCE).await, 3 * DAYS)];
    // To this one every lease of the other seems to end in six days; to the other, this one's ended long ago.
    let mut late = relay(&rig, &library, -3 * DAYS);
    late.line_with("starting", PATIENCE).await;
    load.more(300).await;
    assert!(!late.log().iter().any(|line| line.contains("claimed")), "two relays at work at once");
    early.kill().await;
    faults.push(wrong_clock(&late.line_with("claimed the outbox", PATIENCE).await, -3 * DAYS));
    let mut early = relay(&rig, &library, 3 * DAYS);
    early.line_with("starting", PATIENCE).await;
    load.more(300).await;
    assert!(!early.log().iter().any(|line| line.contains("claimed")), "it took what is not over");
    assert!(early.terminate(PATIENCE).await.0.success());
    rig.settle(load, late, HELD_MAX, faults).await.assert_promises();
}

#[tokio::test]
async fn f33_wrong_clocks_on_postgres() {
    with_wrong_clocks(Database::Postgres).await;
}

#[tokio::test]
async fn f33_wrong_clocks_on_mariadb() {
    with_wrong_clocks(Database::MariaDb).await;
}
