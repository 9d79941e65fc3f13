//! An outbox under load, the relay's binary, and a tape behind it; in the end, the ledger.
//!
//! The relay is configured so that little of it is in flight and all of it is quick to notice things: what a fault can
//! leave in doubt is then a known number of rows ([`HELD_MAX`]).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;

use crate::ledger::{Evidence, Fault, Ledger};
use crate::load::{Journal, Load, Loading};
use crate::outbox::{Database, Outbox, Posted};
use crate::tape::Tape;
use crate::{Process, eventually, servers};

/// Rows that the relay may hold between reading and deleting: what its death can publish twice.
pub const HELD_MAX: usize = 200;
/// Rows that may be in flight: what a lost connection of the broker can publish twice.
pub const WINDOW: usize = 64;
/// Bounds every wait that ends with an event.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// Everything that a fault test needs.
#[allow(missing_debug_implementations)] // transports have no Debug
pub struct Rig {
    /// Where rows are committed.
    pub outbox: Outbox,
    /// What the broker gets.
    pub tape: Tape,
    /// The address that the relay is given for the outbox.
    pub source_url: String,
    /// More lines of its section `[source.load]`.
    pub source_lines: String,
    /// More lines of its section `[relay]`.
    pub relay_lines: String,
    folder: TempDir,
}

impl Rig {
    /// Joins an outbox and a tape.
    ///
    /// # Panics
    /// When there is no folder for the configuration.
    #[must_use]
    pub fn new(outbox: Outbox, tape: Tape) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            source_url: outbox.url.clone(),
            source_lines: String::new(),
            relay_lines: String::new(),
            outbox,
            tape,
            folder,
        }
    }

    /// The usual one: a new database of this kind, and a queue of RabbitMQ.
    ///
    /// # Panics
    /// When one of the servers is not there.
    pub async fn of(database: Database) -> Self {
        Self::new(Outbox::new(database).await, Tape::rabbitmq(&servers::amqp()).await)
    }

    /// The same with an outbox on a server of the test's own.
    ///
    /// # Panics
    /// When one of the servers is not there.
    pub async fn at(url: &str) -> Self {
        Self::new(Outbox::at(url).await, Tape::rabbitmq(&servers::amqp()).await)
    }

    /// The relay's configuration, written anew.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn config(&self) -> PathBuf {
        let file = self.config_file();
        let text = format!(
            "[source.load]\nurl = {:?}\nbatch_rows = 50\n{}\n\n[sink.tape]\n{}\nwindow_rows_max = {WINDOW}\n\n\
             [[route]]\ndestination = \"{}\"\nsink = \"tape\"\n\n\
             [relay]\nbuffer_rows_max = {HELD_MAX}\ndelete_rows_max = 50\nretry_max_ms = 500\n{}\n",
            self.source_url, self.source_lines, self.tape.sink, self.tape.destination, self.relay_lines
        );
        std::fs::write(&file, text).expect("the configuration is written");
        file
    }

    /// Where the relay's configuration is.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// Starts the relay's binary.
    #[must_use]
    pub fn relay(&self) -> Process {
        Process::start(&mut self.relay_command())
    }

    /// The relay's binary, not yet started.
    #[must_use]
    pub fn relay_command(&self) -> Command {
        let mut relay = Process::relay_command();
        relay.args(["run".as_ref(), "--config".as_ref(), self.config().as_os_str()]);
        relay
    }

    /// Starts the relay's binary and waits until it works.
    pub async fn relay_at_work(&self) -> Process {
        let mut relay = self.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        relay
    }

    /// Producers on this outbox, not yet started.
    #[must_use]
    pub fn load(&self) -> Load {
        Load::new(&self.outbox.url, &self.tape.destination)
    }

    /// Waits until the outbox is empty.
    pub async fn drained(&self) -> Duration {
        let began = Instant::now();
        eventually(PATIENCE, "the outbox is empty", || async { self.outbox.left().await == 0 }).await;
        began.elapsed()
    }

    /// Stops the load, lets the relay drain, stops it, and keeps the books. `window` is what each fault can leave in doubt.
    pub async fn settle(self, load: Loading, relay: Process, window: usize, faults: Vec<Fault>) -> Ledger {
        let journal = load.stop().await;
        self.settle_with(journal, relay, window, faults).await
    }

    /// The same, for a load that was stopped before.
    pub async fn settle_with(
        self,
        journal: Journal,
        relay: Process,
        window: usize,
        faults: Vec<Fault>,
    ) -> Ledger {
        self.settle_both(None, journal, relay, window, faults).await
    }

    /// The same, when some keys went to another place.
    ///
    /// # Panics
    /// When the relay does not stop as it should.
    pub async fn settle_both(
        self,
        other: Option<Tape>,
        journal: Journal,
        relay: Process,
        window: usize,
        faults: Vec<Fault>,
    ) -> Ledger {
        let drained = self.drained().await;
        let (status, log) = relay.terminate(PATIENCE).await;
        assert!(status.success(), "the relay ended by {status}\n{}", log.join("\n"));
        let mut tape = self.tape.read::<Posted>().await;
        if let Some(other) = other {
            tape.extend(other.read::<Posted>().await);
        }
        let evidence = Evidence {
            committed: self.outbox.committed().await,
            journal,
            parked: self.outbox.parked().await,
            left: self.outbox.left().await,
            tape,
            window,
            faults,
            drained,
        };
        self.outbox.drop_now().await;
        let ledger = evidence.ledger();
        println!("{ledger}");
        ledger
    }
}
