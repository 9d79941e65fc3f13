//! Servers that belong to one test, which may kill, stop, freeze and restart them.
//!
//! Started by the scripts of `tests/services` from what is installed, each on ports and in a folder of its own. They end
//! when the value is dropped, when the test panics, and when the test's process is killed: a keeper process waits for the
//! end of a pipe that only this process holds.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Blocking, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

/// The three servers that a test can have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
    /// RabbitMQ.
    RabbitMq,
}

/// A server of one test.
#[derive(Debug)]
pub struct PrivateServer {
    /// Where it is: as in [`servers`](crate::servers).
    pub url: String,
    kind: Kind,
    options: String,
    folder: Option<TempDir>,
    keeper: Child,
}

impl PrivateServer {
    /// A new PostgreSQL; `options` are arguments for the server, such as `-c max_connections=15`.
    ///
    /// # Panics
    /// When it is not installed or does not start; so do the other two.
    pub async fn postgres(options: &str) -> Self {
        Self::start_new(Kind::Postgres, options).await
    }

    /// A new MariaDB; `options` are arguments for the server, such as `--max-connections=15`.
    pub async fn mariadb(options: &str) -> Self {
        Self::start_new(Kind::MariaDb, options).await
    }

    /// A new RabbitMQ node; `options` are lines for its configuration.
    pub async fn rabbitmq(options: &str) -> Self {
        Self::start_new(Kind::RabbitMq, options).await
    }

    async fn start_new(kind: Kind, options: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("barid-private-").tempdir().expect("a temporary folder");
        let mut up = Command::new(script("up"));
        up.arg(folder.path()).arg(kind.name()).env_remove(kind.variable());
        // Before the server: from here on something watches the folder.
        let keeper = keeper(folder.path());
        run(up.env("BARID_SERVICES_OPTIONS", options)).await;
        let url = std::fs::read_to_string(folder.path().join(format!("{}.url", kind.name())));
        let url = url.expect("a server that was started says where it is").trim().to_owned();
        Self { url, kind, options: options.to_owned(), folder: Some(folder), keeper }
    }

    /// The folder with its data and its log.
    ///
    /// # Panics
    /// Never: the folder goes only when the value is dropped.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder lives as long as the server").path()
    }

    /// What it has written to its log since the first start.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder().join(format!("{}.out", self.kind.name()))).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it was never started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let record = std::fs::read_to_string(self.folder().join(format!("{}.pid", self.kind.name())));
        let record = record.expect("a server that was started has a process id");
        record.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the process id comes first")
    }

    /// Stops it as its administrator would: sessions are ended, everything is written.
    pub async fn stop(&self) {
        self.end(if self.kind == Kind::Postgres { "INT" } else { "TERM" }).await;
    }

    /// Ends it without warning: signal 9; on PostgreSQL what `pg_ctl stop -m immediate` does, for the sessions are
    /// processes too. The next start recovers.
    pub async fn crash(&self) {
        self.end(if self.kind == Kind::Postgres { "QUIT" } else { "KILL" }).await;
    }

    /// Starts it again, on the same port with the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self) {
        self.start_with(&self.options).await;
    }

    /// The same with other options.
    pub async fn start_with(&self, options: &str) {
        let name = self.kind.name();
        let arguments = std::fs::read_to_string(self.folder().join(format!("{name}.arguments")));
        let arguments = arguments.expect("the arguments of the first start");
        let mut again = Command::new(script(&format!("{name}.sh")));
        again.arg(self.folder()).args(arguments.split_whitespace());
        run(again.env("BARID_SERVICES_OPTIONS", options)).await;
    }

    /// Freezes it with all of its sessions: connections stay open, nothing answers.
    pub async fn freeze(&self) {
        self.signal_all("STOP").await;
    }

    /// Ends a [`freeze`](Self::freeze).
    pub async fn thaw(&self) {
        self.signal_all("CONT").await;
    }

    /// Sends a signal to the server's main process.
    pub async fn signal(&self, signal: &str) {
        kill(signal, &[self.pid()]).await;
    }

    async fn signal_all(&self, signal: &str) {
        let mut all = children(self.pid());
        all.push(self.pid());
        kill(signal, &all).await;
    }

    async fn end(&self, signal: &str) {
        let pid = self.pid();
        let all = children(pid);
        self.signal(signal).await;
        let gone = || async { std::iter::once(&pid).chain(&all).all(|pid| !lives(*pid)) };
        crate::eventually(BOUND, "the server has ended", gone).await;
    }
}

/// How long a server may take to end.
const BOUND: std::time::Duration = std::time::Duration::from_secs(60);

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // The keeper's pipe ends, and it stops the server and removes the folder.
        drop(self.keeper.stdin.take());
        if !self.keeper.wait().is_ok_and(|status| status.success()) {
            eprintln!("a private server could not be stopped: {}", self.folder().display());
        }
        // Removed by the keeper already; what this finds missing is no error.
        drop(self.folder.take().map(TempDir::close));
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::RabbitMq => "rabbitmq",
        }
    }

    /// The variable that would make `up` use another server.
    fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "BARID_TEST_POSTGRES_URL",
            Self::MariaDb => "BARID_TEST_MARIADB_URL",
            Self::RabbitMq => "BARID_TEST_AMQP_URL",
        }
    }
}

/// Waits for the end of its input, which comes with the end of this process at the latest.
fn keeper(folder: &Path) -> Child {
    let mut shell = Blocking::new("setsid");
    shell.args(["sh", "-c", "cat >/dev/null; exec \"$0\" \"$1\""]).arg(script("down")).arg(folder);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the keeper of a server starts")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(name)
}

async fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().await.expect("a script of tests/services runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn kill(signal: &str, pids: &[u32]) {
    let mut kill = Command::new("kill");
    let sent = kill.arg(format!("-{signal}")).args(pids.iter().map(u32::to_string)).output().await;
    // A session may have ended by itself in between.
    sent.expect("the program `kill` exists");
}

/// The processes that this one started and that still live.
fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::{Connection, PgConnection};

    #[tokio::test]
    async fn a_server_comes_back_with_its_data_and_leaves_nothing() {
        let server = PrivateServer::postgres("-c max_connections=20").await;
        let mut db = PgConnection::connect(&server.url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (id int)").execute(&mut db).await.unwrap();
        let first = server.pid();
        server.crash().await;
        assert!(sqlx::raw_sql("SELECT 1").execute(&mut db).await.is_err());
        server.start().await;
        let mut db = PgConnection::connect(&server.url).await.unwrap();
        sqlx::raw_sql("SELECT id FROM t").execute(&mut db).await.unwrap();
        let limit: String = sqlx::query_scalar("SHOW max_connections").fetch_one(&mut db).await.unwrap();
        assert_eq!(limit, "20");
        assert_ne!(server.pid(), first);
        let (pid, folder) = (server.pid(), server.folder().to_owned());
        drop(server);
        assert!(!lives(pid) && !folder.exists());
    }
}
