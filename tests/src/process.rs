//! A binary of the workspace as a child process that can be killed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How many of its last lines are kept.
const LOG_LINES_MAX: usize = 10_000;

/// How long the last lines of a killed child are waited for.
const OUTPUTS_WAIT: Duration = Duration::from_secs(10);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    lines: watch::Receiver<u64>,
}

impl Process {
    /// Starts `barid-relay` of this workspace, as it is in the sources now.
    ///
    /// # Panics
    /// When it does not build or start.
    pub fn relay<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start(Self::relay_command().args(arguments))
    }

    /// `barid-relay` of this workspace, for a test that adds to its environment or limits.
    ///
    /// # Panics
    /// When it does not build.
    #[must_use]
    pub fn relay_command() -> Command {
        Command::new(relay_binary())
    }

    /// Starts a command; both of its outputs become its [`log`](Self::log).
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command) -> Self {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (log, (counter, lines)) = (Arc::default(), watch::channel(0));
        let counter = Arc::new(counter);
        collect(child.stdout.take(), &log, &counter);
        collect(child.stderr.take(), &log, &counter);
        Self { name, child, log, lines }
    }

    /// The lines it has written so far, the oldest first; at most the last 10,000.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Its process id; none once it was waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The first line with this text, as soon as there is one.
    ///
    /// # Panics
    /// When there is none within `timeout`, or the process ended without it; with the log.
    pub async fn line_with(&mut self, text: &str, timeout: Duration) -> String {
        let found = tokio::time::timeout(timeout, async {
            loop {
                self.lines.borrow_and_update();
                let line = self.log().into_iter().find(|line| line.contains(text));
                // An error means that both outputs are closed: nothing more will come.
                if line.is_some() || self.lines.changed().await.is_err() {
                    return line;
                }
            }
        });
        match found.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{} ended without {text:?}\n{}", self.name, self.log().join("\n")),
            Err(_) => {
                panic!("{} did not say {text:?} within {timeout:?}\n{}", self.name, self.log().join("\n"))
            }
        }
    }

    /// Kills it with signal 9, and returns its log.
    ///
    /// # Panics
    /// When it had already ended in another way: then this was not the crash that the test wanted.
    pub async fn kill(mut self) -> Vec<String> {
        let sent = self.child.start_kill();
        let status = self.child.wait().await.expect("a killed child can be waited for");
        assert!(
            sent.is_ok() && status.signal() == Some(9),
            "{} did not end by signal 9 but by {status}\n{}",
            self.name,
            self.log().join("\n")
        );
        // So that the log is complete. A process that it started may still hold the outputs; that one is not waited for.
        let all = async { while self.lines.changed().await.is_ok() {} };
        tokio::time::timeout(OUTPUTS_WAIT, all).await.unwrap_or_default();
        self.log()
    }

    /// Asks it to stop with SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it has not ended within `timeout`.
    pub async fn terminate(mut self, timeout: Duration) -> (ExitStatus, Vec<String>) {
        if let Some(id) = self.id() {
            // The program of that name: this crate has no unsafe code. A process that is gone already is no error here.
            let sent = Command::new("kill").arg("-TERM").arg(id.to_string()).status().await;
            sent.expect("the program `kill` exists");
        }
        let status = self.ended(timeout).await;
        (status, self.log())
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it has not ended within `timeout`.
    pub async fn ended(&mut self, timeout: Duration) -> ExitStatus {
        let ended = async {
            let status = self.child.wait().await.expect("a child can be waited for");
            // Both outputs are read to their ends, so that the log is complete.
            while self.lines.changed().await.is_ok() {}
            status
        };
        match tokio::time::timeout(timeout, ended).await {
            Ok(status) => status,
            Err(_) => panic!("{} did not end within {timeout:?}\n{}", self.name, self.log().join("\n")),
        }
    }
}

/// Reads one output, line by line, until it is closed.
fn collect<R>(output: Option<R>, log: &Arc<Mutex<VecDeque<String>>>, counter: &Arc<watch::Sender<u64>>)
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let (log, counter) = (Arc::clone(log), Arc::clone(counter));
    let mut lines = BufReader::new(output.expect("the output is a pipe")).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES_MAX {
                log.pop_front();
            }
            log.push_back(line);
            drop(log);
            counter.send_modify(|lines| *lines += 1);
        }
    });
}

/// Where the relay's binary is. Built once by each test program, unless `tests/run` has just done that.
fn relay_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // This program is <target>/<profile>/deps/<name>-<hash>.
        let program = std::env::current_exe().expect("a test program knows where it is");
        let profile = program.ancestors().nth(2).expect("a test program is in <target>/<profile>/deps");
        let binary = profile.join("barid-relay");
        if std::env::var_os("BARID_TEST_BUILT").is_none() || !binary.exists() {
            build_relay(profile);
        }
        assert!(binary.exists(), "cargo did not build {}", binary.display());
        binary
    })
}

fn build_relay(profile: &Path) {
    let name = profile.file_name().and_then(OsStr::to_str).expect("the folder of a profile has a name");
    let mut cargo = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"));
    // Together with this package, so that both are built from the same dependencies with the same features.
    cargo.args(["build", "--quiet", "--package", "barid-relay", "--package", "barid-tests"]);
    cargo.args(["--bin", "barid-relay", "--profile"]);
    cargo.arg(if name == "debug" { "dev" } else { name });
    cargo.arg("--target-dir").arg(profile.parent().expect("a profile is in the target folder"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // `cargo test` describes this package in the environment; build scripts that look there would all run again.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(variable);
        }
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "cargo build --package barid-relay: {status}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Process {
        Process::start(Command::new("sh").args(["-c", script]))
    }

    #[tokio::test]
    async fn a_killed_process_ended_by_signal_9() {
        let mut process = shell("echo started; echo problem >&2; exec sleep 60");
        assert_eq!(process.line_with("prob", SOON).await, "problem");
        process.line_with("started", SOON).await;
        assert_eq!(process.kill().await.len(), 2);
    }

    #[tokio::test]
    async fn sigterm_lets_it_end_by_itself() {
        let mut process = shell("trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.05; done");
        process.line_with("started", SOON).await;
        let (status, log) = process.terminate(SOON).await;
        assert_eq!((status.code(), log), (Some(3), vec!["started".to_owned(), "bye".to_owned()]));
    }

    #[tokio::test]
    async fn an_end_that_was_no_kill_is_not_taken_for_one() {
        let mut process = shell("exit 1");
        assert_eq!(process.ended(SOON).await.code(), Some(1));
        assert!(tokio::spawn(process.kill()).await.is_err());
    }

    #[tokio::test]
    async fn the_relay_is_built_and_found() {
        let mut relay = Process::relay(["--version"]);
        relay.ended(SOON).await;
    }
}
