//! The relay as a process of its own: the program `barid-relay`, as it would be deployed beside the application.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::Relays;
use crate::Shop;

/// How long the relay may take to end.
const END: Duration = Duration::from_secs(30);

/// Rows in the outbox that are enough for a relay to be killed in their midst.
const BACKLOG: i64 = 100;

/// How long a crash waits for its moment.
const MOMENT: Duration = Duration::from_secs(5);

/// How often is looked whether a process has ended, or its moment has come.
const LOOK: Duration = Duration::from_millis(2);

/// A relay program with its configuration.
pub struct RelayProcess {
    shop: Shop,
    program: PathBuf,
    folder: TempDir,
    /// Addresses hold passwords: the process gets them from its environment, and they are in no file.
    secrets: Vec<(String, String)>,
    child: Option<Child>,
}

impl RelayProcess {
    /// Not started yet. `sink` are the lines of the sink `broker` without secrets, `secrets` keys of the configuration and
    /// their values.
    ///
    /// # Errors
    /// When the program is not there, or the configuration cannot be written.
    pub fn new(
        shop: &Shop,
        program: Option<&Path>,
        sink: &str,
        secrets: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("barid-relay-").tempdir()?;
        let configuration = format!(
            "[source.shop]\n\n[sink.broker]\n{sink}\n\n[[route]]\ndestination = \"*\"\nsink = \"broker\"\n\n\
             # One at a time, so that the kill finds rows that were sent and not yet deleted, however fast the machine is.\n\
             [relay]\ndelete_rows_max = 1\n"
        );
        std::fs::write(folder.path().join("relay.toml"), configuration)?;
        Ok(Self {
            shop: shop.clone(),
            program: find(program)?,
            folder,
            secrets: secrets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            child: None,
        })
    }

    /// Signal 9: it cannot tidy up.
    async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the relay does not run")?;
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("the relay ended before it could be killed: {status}");
        }
        child.kill()?;
        ended(&mut child).await.map(drop)
    }

    /// Waits for a moment, within a bound: when it never comes, the ledger will show that no crash mattered.
    async fn wait_for(&self, moment: impl Fn(Outbox) -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + MOMENT;
        while !moment(outbox(&self.shop).await?) && Instant::now() < until {
            sleep(LOOK).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Relays for RelayProcess {
    async fn start(&mut self) -> anyhow::Result<()> {
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(self.folder.path().join("relay.toml"))
            // lapin reports errors of connections that are being closed on purpose; the relay reports all that matter.
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,lapin=off".to_owned()))
            .envs(self.secrets.iter().map(|(key, value)| (key, value)))
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    async fn crash(&mut self) -> anyhow::Result<i64> {
        // It is away for a while. The next one finds more than it can send at once, and is killed while it catches up: the
        // first rows have left the outbox, others were sent and still are in it.
        self.kill().await?;
        self.wait_for(|outbox| outbox.rows >= BACKLOG).await?;
        let before = outbox(&self.shop).await?;
        self.start().await?;
        self.wait_for(|outbox| outbox.first > before.first).await?;
        self.kill().await?;
        Ok(outbox(&self.shop).await?.rows)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // The program of that name: SIGTERM is what an init system sends.
        Command::new("kill").arg("-TERM").arg(child.id().to_string()).status()?;
        let status = ended(&mut child).await?;
        anyhow::ensure!(status.success(), "the relay ended with {status}");
        Ok(())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The story failed; what matters is that no process stays behind.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `child` ends, within a bound.
async fn ended(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let until = Instant::now() + END;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        anyhow::ensure!(Instant::now() < until, "the relay did not end within {END:?}");
        sleep(LOOK).await;
    }
}

/// What is in the outbox.
#[derive(Clone, Copy, Debug)]
struct Outbox {
    rows: i64,
    /// The position of the first row.
    first: i64,
}

async fn outbox(shop: &Shop) -> anyhow::Result<Outbox> {
    let sql = "SELECT count(*), coalesce(min(seq), 0) FROM outbox";
    let (rows, first) = on_database!(&shop.pool, pool => sqlx::query_as(sql).fetch_one(pool).await)?;
    Ok(Outbox { rows, first })
}

/// The relay's program: the one that was named, or the one that cargo put beside this program.
fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        anyhow::ensure!(named.is_file(), "{} is not there", named.display());
        return Ok(named.to_owned());
    }
    let this = std::env::current_exe()?;
    let folders = this.ancestors().skip(1).take(2);
    let mut programs = folders.map(|folder| folder.join("barid-relay"));
    programs.find(|program| program.is_file()).context(
        "the program barid-relay is not beside this one: build it with\n  cargo build --release -p barid-relay\n\
         or say where it is: --relay PATH",
    )
}
