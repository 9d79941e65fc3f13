//! SIGHUP: what a relay that works takes over from its configuration, and what it says of the rest.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::Process;
use barid_tests::place::{Hand, Kind, PATIENCE, Place};
use tokio::process::Command;

async fn hang_up(relay: &Process) {
    let id = relay.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().await.unwrap().success());
}

struct Running {
    place: Place,
    relay: Process,
    there: String,
}

impl Running {
    /// With these lines in `[source.main]` and in `[relay]`.
    async fn new(source: &str, relay: &str, environment: &[(&str, &str)]) -> Self {
        let place = Place::new(Kind::Sqlite).await;
        let there = format!("queue:{}", place.there);
        write(&place, source, relay);
        let mut command = Process::relay_command();
        command.args(["run", "--config", &place.config()]).env_remove("RUST_LOG");
        let mut relay = Process::start(command.envs(environment.iter().copied()));
        relay.line_with("claimed the outbox", PATIENCE).await;
        Self { place, relay, there }
    }

    async fn delivers(&self, body: &str) {
        self.place.insert(&Hand::new(&self.there, "a", body)).await;
        assert_eq!(self.place.received(&self.place.there, 1).await[0].body, body);
    }
}

fn write(place: &Place, source: &str, relay: &str) {
    place.configure_with("queue:*", &format!("\n[relay]\n{relay}\n"));
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), text.replace("[source.main]\n", &format!("[source.main]\n{source}\n")))
        .unwrap();
}

#[tokio::test]
async fn what_nothing_rests_on_is_taken_over_and_the_rest_is_named() {
    // Whoever waits for its next look waits for an hour.
    let mut running =
        Running::new("poll_min_ms = 3600000\nidle_poll_ms = 3600000", "log = \"warn,barid_relay=info\"", &[])
            .await;
    write(
        &running.place,
        "poll_min_ms = 1\nidle_poll_ms = 50\nbatch_rows = 7",
        "log = \"debug\"\nlease_ms = 9000\ndrain_ms = 20000",
    );
    hang_up(&running.relay).await;
    let applied = running.relay.line_with("the configuration was read again", PATIENCE).await;
    for key in ["relay.drain_ms", "relay.log", "source.main.batch_rows", "source.main.idle_poll_ms"] {
        assert!(applied.contains(key), "{key} is not in {applied}");
    }
    let rest = running.relay.line_with("these need a restart", PATIENCE).await;
    assert!(rest.contains("relay.lease_ms (other relays have been told of it)"), "{rest}");
    assert!(!rest.contains("batch_rows") && !applied.contains("lease_ms"), "{applied}\n{rest}");
    // Once at its next look, once after a pause of the new length.
    running.delivers("1").await;
    running.delivers("2").await;
    running.relay.line_with("DEBUG", PATIENCE).await;
    assert!(running.relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn a_configuration_that_became_wrong_changes_nothing() {
    let mut running = Running::new("batch_rows = 10", "", &[]).await;
    std::fs::write(running.place.config(), "[source.main]\nulr = \"x\"\n").unwrap();
    hang_up(&running.relay).await;
    running.relay.line_with("SIGHUP: nothing was changed", PATIENCE).await;
    let said = running.relay.log().join("\n");
    assert!(said.contains("relay.toml:2: ") && said.contains("did you mean"), "{said}");
    running.delivers("1").await;
    // Made right again, it is taken.
    write(&running.place, "batch_rows = 20", "");
    hang_up(&running.relay).await;
    let applied = running.relay.line_with("the configuration was read again", PATIENCE).await;
    assert!(applied.contains("source.main.batch_rows"), "{applied}");
    running.delivers("2").await;
    assert!(running.relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn what_the_environment_says_stays_over_the_file() {
    let environment = [("RUST_LOG", "info"), ("BARID_RELAY__SOURCE__MAIN__BATCH_ROWS", "5")];
    let mut running = Running::new("", "log = \"info\"", &environment).await;
    write(&running.place, "batch_rows = 9", "log = \"trace\"");
    hang_up(&running.relay).await;
    let rest = running.relay.line_with("these need a restart", PATIENCE).await;
    assert!(rest.contains("relay.log (RUST_LOG is over it)") && !rest.contains("batch_rows"), "{rest}");
    running.delivers("1").await;
    let (status, log) = running.relay.terminate(PATIENCE).await;
    assert!(status.success() && !log.iter().any(|line| line.contains("TRACE")));
}
