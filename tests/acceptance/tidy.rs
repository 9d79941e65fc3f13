//! The rules of ARCHITECTURE.md that can be read off the sources.

#![allow(clippy::unwrap_used)] // a test

#[path = "tidy/security.rs"]
mod security;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every Rust source below the given folders, with its path from the root of the repository.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "no sources below {folders:?}");
    found
}

/// Code lines, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

fn only_below(crate_name: &str, allowed: &[&str]) {
    let path = format!("{crate_name}::");
    for (name, text) in sources(&["framework/src", "relay/src"]) {
        let used = code(&text).any(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != ':' && c != '_')
                .any(|word| word.starts_with(&path))
        });
        let here = allowed.iter().any(|place| name.starts_with(place));
        assert!(!used || here, "{name} names {crate_name}, which belongs below {allowed:?}");
    }
}

#[test]
fn each_broker_client_is_named_in_one_place() {
    only_below("lapin", &["framework/src/transport/rabbitmq"]);
    only_below("rdkafka", &["framework/src/transport/kafka"]);
}

/// What machines compare is counted by the database's clock, and durations by a monotonic one: a wall clock that is days off
/// changes nothing of what the relay reads, owns, publishes and deletes.
#[test]
fn the_relay_works_by_no_wall_clock() {
    let rooms = ["lane", "lease", "relay", "sink", "source"].map(|room| format!("relay/src/{room}"));
    let (mut seen, clocks) =
        (0, ["SystemTime", "UNIX_EPOCH", "Utc::now", "Local::now", "barid::clock", "chrono::"]);
    for (name, text) in sources(&["relay/src"]) {
        if rooms.iter().any(|room| name.starts_with(room)) {
            let used = clocks.iter().find(|clock| code(&text).any(|line| line.contains(**clock)));
            assert_eq!(used, None, "{name} reads a wall clock");
            seen += 1;
        }
    }
    assert!(seen >= 30, "the rooms are no longer where this test looks");
}

#[test]
fn the_framework_does_not_know_the_relay() {
    for (name, text) in sources(&["framework/src"]) {
        assert!(!code(&text).any(|line| line.contains("barid_relay")), "{name} names the relay");
    }
}

#[test]
fn what_is_below_store_does_not_know_handlers() {
    for (name, text) in sources(&["framework/src/store"]) {
        assert!(!code(&text).any(|line| line.contains("crate::handler")), "{name} names handlers");
    }
}

#[test]
fn files_have_one_concept() {
    for (name, text) in sources(&["framework/src", "relay/src", "examples"]) {
        assert!(text.lines().count() <= 400, "{name} has more than 400 lines: split it");
        let documented = text.starts_with("//!") || name.ends_with("tests.rs");
        assert!(documented, "{name} does not say what it is");
    }
}

#[test]
fn every_error_code_has_a_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut seen = 0;
    for (name, text) in sources(&["framework/src", "relay/src"]) {
        for part in text.split("BRD0").skip(1) {
            let code = format!("BRD0{}", &part[..2]);
            assert!(
                root.join("docs/errors").join(format!("{code}.md")).exists(),
                "{name} has {code} without a page"
            );
            seen += 1;
        }
    }
    assert!(seen >= 8, "the codes are no longer where this test looks");
}
