//! A home on PostgreSQL, a branch on PostgreSQL and one on MariaDB, with the relay's configuration for them.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};

use barid_tests::{
    Process, TestDatabase,
    transfer::{Bank, impatient},
};
use serde_json::Value;
use sqlx::{MySql, Postgres};
use tempfile::TempDir;
use tokio::process::Command;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const SIGABRT: i32 = 6;

pub(crate) struct Place {
    pub(crate) bank: Bank,
    pub(crate) urls: Vec<String>,
    folder: TempDir,
    _databases: (TestDatabase<Postgres>, TestDatabase<Postgres>, TestDatabase<MySql>),
}

impl Place {
    /// With so many accounts; nobody recovers.
    pub(crate) async fn new(accounts: i64) -> Self {
        let databases =
            (TestDatabase::postgres().await, TestDatabase::postgres().await, TestDatabase::mariadb().await);
        let urls = vec![databases.0.url.clone(), databases.1.url.clone(), databases.2.url.clone()];
        Bank::create(&urls, accounts).await.unwrap();
        let bank = Bank::open(&urls, impatient()).await.unwrap();
        let place = Self { bank, urls, folder: tempfile::tempdir().unwrap(), _databases: databases };
        place.configure(&place.config());
        place
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// The configuration with everything in it.
    pub(crate) fn config(&self) -> String {
        let [home, first, second] = &self.urls[..] else { panic!("three databases") };
        format!(
            "[source.home]\nurl = {home:?}\n\n[resource.branch-1]\nurl = {first:?}\n\n[resource.branch-2]\nurl = {second:?}\n\n\
             [sink.out]\nkind = \"sql\"\nurl = {home:?}\n\n[[route]]\ndestination = \"*\"\nsink = \"out\"\n"
        )
    }

    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap();
    }

    /// Lets a coordinator die at a point of the transfer of an account. Returns the transaction's id.
    pub(crate) async fn dies_at(&self, point: &str, account: i64) -> String {
        let mut program = Command::new(env!("CARGO_BIN_EXE_distributed-transfer"));
        program.args(["transfer", &account.to_string(), "Yes"]).args(&self.urls);
        let mut coordinator = Process::start(program.env("BARID_CRASH_AT", point));
        let status = coordinator.ended(PATIENCE).await;
        let log = coordinator.log();
        assert_eq!(status.signal(), Some(SIGABRT), "{point}\n{}", log.join("\n"));
        log.iter().find_map(|line| line.strip_prefix("gid ")).unwrap().to_owned()
    }

    /// One command: how it ended, and all that it said, its answer first and then why it failed.
    pub(crate) async fn tx(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Process::relay_command();
        command.arg("tx").args(arguments).arg("--config").arg(self.file()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
    }

    /// One command that works, in both forms: what it said to people, and to programs.
    pub(crate) async fn both(&self, arguments: &[&str]) -> (String, Value) {
        let (code, table) = self.tx(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {table}");
        (table, self.json(arguments).await)
    }

    /// One command that works, as a program reads it.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let (code, said) = self.tx(&[arguments, &["--output", "json"]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {said}");
        parse(&said)
    }
}

/// What was said to a program, without what a failing command says after it.
pub(crate) fn parse(said: &str) -> Value {
    let mut values = serde_json::Deserializer::from_str(said).into_iter();
    values
        .next()
        .unwrap_or_else(|| panic!("nothing was said"))
        .unwrap_or_else(|error| panic!("{error}: {said}"))
}

pub(crate) fn says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
}
