//! The program as a person meets it: what it says and how it ends.
//!
//! Needs no server. What only a server can refuse (a wrong password) is tried when `BARID_TEST_POSTGRES_URL` and
//! `BARID_TEST_AMQP_URL` name one, and is said loudly when it is not.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use barid::store::{AnyPool, schema};
use tempfile::TempDir;

/// A folder with a configuration, and a SQLite file if somebody makes one.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("relay.toml"), config).unwrap();
        Self { folder }
    }

    /// A source and a sink in one SQLite file.
    fn sqlite() -> Self {
        let stage = Self::new("");
        let url = stage.url();
        let config = format!(
            "[source.main]\nurl = \"{url}\"\n[sink.queues]\nkind = \"sql\"\nurl = \"{url}\"\n\
             [[route]]\ndestination = \"queue:*\"\nsink = \"queues\"\n"
        );
        fs::write(stage.folder.path().join("relay.toml"), config).unwrap();
        stage
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.file("a.db").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_barid-relay"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        ended(self.command(arguments).output().unwrap())
    }

    async fn pool(&self) -> sqlx::SqlitePool {
        match AnyPool::connect(&self.url(), 2).await.unwrap() {
            AnyPool::Sqlite(pool) => pool,
            other => panic!("{other:?}"),
        }
    }
}

/// The exit code and everything that was said.
fn ended(output: Output) -> (i32, String) {
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), said)
}

fn check((code, said): (i32, String), expected: i32, texts: &[&str]) {
    assert_eq!(code, expected, "{said}");
    for text in texts {
        assert!(said.contains(text), "lacks {text:?}:\n{said}");
    }
}

#[test]
fn unknown_keys_are_all_named() {
    let stage = Stage::new("[source.main]\nulr = \"x\"\n[sink.a]\nkind = \"kafka\"\nbroker = \"x\"\n");
    check(
        stage.run(&["run"]),
        3,
        &[
            "relay.toml:2: unknown key \"ulr\" in [source.main]; did you mean \"url\"?",
            "relay.toml:5: unknown key \"broker\" in [sink.a]; did you mean \"brokers\"?",
        ],
    );
}

#[test]
fn a_missing_file_says_how_to_name_another() {
    let stage = Stage::new("");
    check(stage.run(&["run", "--config", "nowhere.toml"]), 3, &["nowhere.toml", "--config"]);
}

#[test]
fn an_address_without_a_driver_says_what_may_be_written() {
    let stage = Stage::sqlite();
    let mut command = stage.command(&["run"]);
    command.env("BARID_RELAY__SOURCE__MAIN__URL", "oracle://u:s3cret@h/d");
    let (code, said) = ended(command.output().unwrap());
    check((code, said.clone()), 3, &["[source.main]", "oracle://u:***@h/d", "postgres://"]);
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_missing_schema_says_what_to_run_and_that_works() {
    let stage = Stage::sqlite();
    check(stage.run(&["run"]), 5, &["[source.main]", "0001_outbox", "barid-relay schema apply"]);
    check(stage.run(&["schema", "apply"]), 0, &["applied 0001 outbox"]);
    check(stage.run(&["schema", "apply", "--url", &stage.url()]), 0, &["nothing to apply"]);
    check(stage.run(&["check"]), 0, &["[source.main]: ok", "[sink.queues]: ok", "order = \"strict\""]);
}

#[tokio::test]
async fn a_newer_schema_says_to_update_the_program() {
    let stage = Stage::sqlite();
    check(stage.run(&["schema", "apply"]), 0, &[]);
    let newer = "INSERT INTO barid_schema (version, name, checksum) VALUES (99, 'future', 'x')";
    sqlx::query(newer).execute(&stage.pool().await).await.unwrap();
    check(stage.run(&["run"]), 5, &["99", "future", "update this program"]);
}

#[test]
fn a_broker_that_is_not_there_is_named_without_its_password() {
    let stage = Stage::sqlite();
    check(stage.run(&["schema", "apply"]), 0, &[]);
    let config = fs::read_to_string(stage.file("relay.toml")).unwrap();
    let rabbit = "[sink.rabbit]\nkind = \"rabbitmq\"\nurl = \"amqp://u:s3cret@127.0.0.1:1/\"\n";
    fs::write(stage.file("relay.toml"), config + rabbit).unwrap();
    let (code, said) = stage.run(&["check"]);
    check(
        (code, said.clone()),
        4,
        &["[sink.rabbit]: FAILED", "cannot reach", "127.0.0.1:1", "[sink.queues]: ok"],
    );
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_wrong_password_is_refused_and_never_shown() {
    for (variable, section) in
        [("BARID_TEST_POSTGRES_URL", "SOURCE__MAIN"), ("BARID_TEST_AMQP_URL", "SINK__QUEUES")]
    {
        let Ok(url) = std::env::var(variable) else {
            let loud = format!("NOT RUN: a wrong password: {variable} is not set\n");
            std::io::stderr().write_all(loud.as_bytes()).unwrap();
            continue;
        };
        let mut url = url::Url::parse(&url).unwrap();
        url.set_password(Some("s3cret")).unwrap();
        let stage = Stage::sqlite();
        check(stage.run(&["schema", "apply"]), 0, &[]);
        let mut command = stage.command(&["run"]);
        command.env(format!("BARID_RELAY__{section}__URL"), url.as_str());
        if section == "SINK__QUEUES" {
            command.env("BARID_RELAY__SINK__QUEUES__KIND", "rabbitmq");
        }
        let (code, said) = ended(command.output().unwrap());
        check((code, said.clone()), 4, &["refused"]);
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn the_schema_can_be_printed_for_each_database() {
    let stage = Stage::new("");
    for (dialect, has) in [("postgres", "xid8"), ("mysql", "ENGINE = InnoDB"), ("sqlite", "AUTOINCREMENT")] {
        check(stage.run(&["schema", "print", "--dialect", dialect]), 0, &["CREATE TABLE", has]);
    }
    check(stage.run(&["schema", "print", "--dialect", "oracle"]), 2, &["postgres"]);
}

#[tokio::test]
async fn sigterm_stops_it_cleanly_and_an_unknown_destination_is_parked() {
    let stage = Stage::sqlite();
    schema::apply(&AnyPool::connect(&stage.url(), 1).await.unwrap()).await.unwrap();
    let pool = stage.pool().await;
    sqlx::query("INSERT INTO queue_declared (queue) VALUES ('a')").execute(&pool).await.unwrap();
    for destination in ["queue:a", "topic:nowhere"] {
        let row = "INSERT INTO outbox (id, destination, aggregatetype, type, payload) VALUES (?, ?, 'o', 'm', x'01')";
        sqlx::query(row).bind(uuid::Uuid::now_v7()).bind(destination).execute(&pool).await.unwrap();
    }
    let mut command = stage.command(&["run"]);
    let mut relay = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let left = "SELECT count(*) FROM outbox";
    while sqlx::query_scalar::<_, i64>(left).fetch_one(&pool).await.unwrap() > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "rows are left");
        assert!(relay.try_wait().unwrap().is_none(), "it has ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let terminated = Command::new("kill").arg(relay.id().to_string()).status().unwrap();
    assert!(terminated.success());
    check(
        ended(relay.wait_with_output().unwrap()),
        0,
        &[
            "starting",
            "no route for destination \\\"topic:nowhere\\\" (routes: \\\"queue:*\\\")",
            "stopped",
            "confirmed: 1",
        ],
    );
    let parked: String =
        sqlx::query_scalar("SELECT last_error FROM relay_parked").fetch_one(&pool).await.unwrap();
    assert!(parked.contains("topic:nowhere"), "{parked}");
    let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM queue_message").fetch_one(&pool).await.unwrap();
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn a_source_that_fails_leaves_the_others_at_work_and_is_named_at_the_end() {
    let stage = Stage::sqlite();
    schema::apply(&AnyPool::connect(&stage.url(), 1).await.unwrap()).await.unwrap();
    let pool = stage.pool().await;
    sqlx::query("INSERT INTO queue_declared (queue) VALUES ('a')").execute(&pool).await.unwrap();
    let config = fs::read_to_string(stage.file("relay.toml")).unwrap();
    let bare = format!("[source.bare]\nurl = \"sqlite:{}\"\n", stage.file("bare.db").display());
    fs::write(stage.file("relay.toml"), config + &bare).unwrap();
    let log = fs::File::create(stage.file("log")).unwrap();
    let mut relay = stage.command(&["run"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let began = Instant::now();
    let mut goes_on = async |what: &str| {
        assert!(began.elapsed() < Duration::from_secs(60), "not in time: {what}");
        assert!(relay.try_wait().unwrap().is_none(), "it has ended: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let said = || fs::read_to_string(stage.file("log")).unwrap();
    while !said().contains("this source has ended") {
        goes_on("the failure is logged").await;
    }
    let row = "INSERT INTO outbox (id, destination, aggregatetype, type) VALUES (?, 'queue:a', 'o', 'm')";
    sqlx::query(row).bind(uuid::Uuid::now_v7()).execute(&pool).await.unwrap();
    let left = "SELECT count(*) FROM outbox";
    while sqlx::query_scalar::<_, i64>(left).fetch_one(&pool).await.unwrap() > 0 {
        goes_on("the other source is worked on").await;
    }
    assert!(Command::new("kill").arg(relay.id().to_string()).status().unwrap().success());
    let code = relay.wait().unwrap().code().unwrap_or(-1);
    check(
        (code, said()),
        5,
        &["1 of 2 sources failed", "[source.bare]", "barid-relay schema apply", "confirmed: 1"],
    );
}
