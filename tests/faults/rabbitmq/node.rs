//! A RabbitMQ node of one test, its administrator's commands, and a relay on it.

use std::{path::Path, time::Duration};

use barid_tests::{
    Process, eventually,
    ledger::Fault,
    outbox::{Database, Outbox},
    private::PrivateServer,
    rig::{PATIENCE, Rig},
    tape::Tape,
};
use tokio::process::Command;

/// Enough for everything. A limit and not none: a quorum queue that loses its limit does not tell its publishers that it is open
/// again.
pub(crate) const ROOM: &str = r#"{"max-length":1000000,"overflow":"reject-publish"}"#;

/// How long a row waits for its confirm here. Short, so that a test need not be long.
pub(crate) const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Node {
    pub(crate) server: PrivateServer,
}

impl Node {
    pub(crate) async fn start(options: &str) -> Self {
        Self { server: PrivateServer::rabbitmq(options).await }
    }

    /// An outbox and a tape on this node.
    pub(crate) async fn rig(&self) -> Rig {
        self.rig_with(Tape::rabbitmq(&self.server.url).await).await
    }

    pub(crate) async fn rig_with(&self, tape: Tape) -> Rig {
        self.rig_on(Database::Postgres, tape).await
    }

    pub(crate) async fn rig_on(&self, database: Database, mut tape: Tape) -> Rig {
        tape.sink.push_str(&format!("\nconfirm_timeout_ms = {}", CONFIRM_TIMEOUT.as_millis()));
        Rig::new(Outbox::new(database).await, tape)
    }

    /// Sets what queues with this in their names may hold, and what they do when they are full.
    pub(crate) async fn limit(&self, queues: &str, definition: &str) {
        self.ctl(&["set_policy", "limit", queues, definition, "--apply-to", "queues"]).await;
    }

    /// What its administrator types; returns what it says.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let folder = self.server.folder();
        let ports = std::fs::read_to_string(folder.join("rabbitmq.arguments")).unwrap();
        let epmd_port = ports.split_whitespace().nth(2).unwrap().to_owned();
        let program = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "/usr/local/sbin/rabbitmqctl"];
        let program =
            program.into_iter().find(|program| Path::new(program).exists()).unwrap_or("rabbitmqctl");
        let mut ctl = Command::new(program);
        ctl.args(["-n", "barid@localhost", "-t", "300"]).args(arguments);
        ctl.env("HOME", folder.join("rabbitmq/home")).env("ERL_EPMD_PORT", epmd_port);
        ctl.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        let output = ctl.kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

/// How often the relay has said this.
pub(crate) fn said(relay: &Process, text: &str) -> usize {
    relay.log().iter().filter(|line| line.contains(text)).count()
}

/// Waits until the relay says this once more than `before`; the line is the evidence.
pub(crate) async fn says(relay: &Process, text: &str, before: usize) -> String {
    eventually(PATIENCE, text, || async { said(relay, text) > before }).await;
    relay.log().into_iter().rfind(|line| line.contains(text)).unwrap_or_default()
}

/// Waits until everything that is in the outbox now has left it.
pub(crate) async fn caught_up(rig: &Rig) {
    let waiting: std::collections::HashSet<_> = rig.outbox.waiting().await.into_iter().collect();
    eventually(PATIENCE, "what was committed has left the outbox", || async {
        !rig.outbox.waiting().await.iter().any(|id| waiting.contains(id))
    })
    .await;
}

/// A fault that the relay's log proves: does it, and waits until the relay says `text` again.
pub(crate) async fn seen(relay: &Process, what: &str, text: &str, act: impl Future<Output = ()>) -> Fault {
    let before = said(relay, text);
    act.await;
    Fault::new(what, says(relay, text, before).await)
}
