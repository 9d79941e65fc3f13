//! Bad input: configurations (row F81 of the fault table) and rows that somebody wrote by hand (rows F79, F80 and F83).

#![allow(clippy::unwrap_used)] // a test

#[path = "config/by_hand.rs"]
mod by_hand;
#[path = "config/headers.rs"]
mod headers;

use barid_tests::{
    Process,
    ledger::Fault,
    outbox::Database,
    rig::{PATIENCE, Rig},
};

const SINK: &str = "\n[sink.s]\nkind = \"kafka\"\nbrokers = \"localhost:1\"\n\n[[route]]\ndestination = \"*\"\nsink = \"s\"\n";

/// Runs `check` on a configuration; how it ended and what it said.
async fn check(text: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Process::relay_command();
    command.args(["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
    command.envs(environment.iter().copied());
    let mut process = Process::start(&mut command);
    let status = process.ended(PATIENCE).await;
    (status.code(), process.log().join("\n"))
}

#[tokio::test]
async fn f81_a_wrong_configuration_is_refused_with_its_line() {
    let source = "[source.main]\nurl = \"sqlite::memory:\"\n";
    let wrong = [
        // An unknown key, a section with a typing error, a wrong type.
        (format!("[source.main]\nulr = \"x\"\n{SINK}"), ["relay.toml:2: ", "did you mean \"url\""]),
        (format!("{source}\n[realy]\ndrain_ms = 1\n{SINK}"), ["relay.toml:4: ", "did you mean \"relay\""]),
        (
            format!("{source}{SINK}\n[relay]\ndrain_ms = \"soon\"\n"),
            ["relay.toml:13: ", "must be a whole number"],
        ),
        // No address at all; and two for one source.
        (format!("[source.main]\nbatch_rows = 1\n{SINK}"), ["relay.toml:2: ", "needs one of"]),
        (format!("{source}url_file = \"/nowhere\"\n{SINK}"), ["has both", "\"url\" and \"url_file\""]),
        // A route to a sink that is not there.
        (
            format!("{source}\n[[route]]\ndestination = \"*\"\nsink = \"nobody\"\n"),
            ["relay.toml:6: ", "\"nobody\", which does not exist"],
        ),
    ];
    for (text, says) in wrong {
        let (code, said) = check(&text, &[]).await;
        assert_eq!(code, Some(3), "{text}\n{said}");
        for part in says {
            assert!(said.contains(part), "lacks {part:?}\n{text}\n{said}");
        }
    }
}

#[tokio::test]
async fn f81_a_variable_that_is_missing_or_wrong_is_named() {
    let text = format!("[source.main]\n{SINK}");
    let (code, said) = check(&text, &[("BARID_RELAY__RELAY__DRAIN_MS", "soon")]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("BARID_RELAY__RELAY__DRAIN_MS: ") && said.contains("whole number"), "{said}");
    let (code, said) = check(&text, &[]).await;
    assert!(code == Some(3) && said.contains("add one with the url of a database"), "{said}");
    let canary = "postgres://u:s3cr3t-canary@127.0.0.1:1/x";
    let (code, said) = check(&text, &[("BARID_RELAY__SOURCE__MAIN__URL", canary)]).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(!said.contains("canary"), "a password is shown\n{said}");
}

#[tokio::test]
async fn f81_a_process_that_runs_keeps_what_it_was_started_with() {
    let rig = Rig::of(Database::Postgres).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(50).await;
    std::fs::write(rig.config_file(), "[source.load]\nulr = \"x\"\n").unwrap();
    let mut second = Process::relay(["check".as_ref(), "--config".as_ref(), rig.config_file().as_os_str()]);
    let refused = second.ended(PATIENCE).await;
    assert_eq!(refused.code(), Some(3));
    load.more(50).await;
    let faults = vec![Fault::new("the file became wrong", format!("a second process ended by {refused}"))];
    rig.settle(load, relay, 0, faults).await.assert_promises();
}
