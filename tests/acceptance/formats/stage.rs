//! A PostgreSQL database, a configuration as an operator writes it, and the relay that it makes, until there is nothing left to do.

use std::{path::PathBuf, time::Duration};

use barid::store::{AnyPool, schema};
use barid_relay::{config, setup::Setup};
use barid_tests::{Process, TestDatabase, eventually};
use sqlx::{AssertSqlSafe, Executor, Postgres};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) database: TestDatabase<Postgres>,
    folder: TempDir,
}

impl Stage {
    /// A database with the schema and what `sql` makes in it.
    pub(crate) async fn new(sql: &str) -> Self {
        let database = TestDatabase::postgres().await;
        schema::apply(&AnyPool::Postgres(database.pool.clone())).await.unwrap();
        let stage = Self { database, folder: tempfile::tempdir().unwrap() };
        stage.sql(sql).await;
        stage
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.database.pool.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    /// The one value that a query asks for, as text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Writes the configuration: keys of `[source.orders]`, and the sections behind it.
    pub(crate) fn configure(&self, keys: &str, sections: &str) -> PathBuf {
        let file = self.folder.path().join("relay.toml");
        let text = format!("[source.orders]\nurl = {:?}\n{keys}\n{sections}\n", self.database.url);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Runs the relay that this configuration makes until `table` is empty, which it is when every row was delivered or parked.
    pub(crate) async fn drain(&self, table: &str, keys: &str, sections: &str) {
        let file = self.configure(keys, sections);
        let config = config::read(&file, std::iter::empty()).unwrap_or_else(|error| panic!("{error}"));
        let relay = Setup::new(&config).relay("orders").await.unwrap_or_else(|error| panic!("{error}"));
        let stop = CancellationToken::new();
        let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
        let count = format!("SELECT count(*)::text FROM {table}");
        eventually(PATIENCE, "the table is empty", || async {
            assert!(!running.is_finished(), "the relay ended before the table was empty");
            self.text(&count).await == "0"
        })
        .await;
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// Runs the program with this configuration: how it ended, and all that it said.
    #[allow(dead_code)] // only one of the programs that share this file looks at the command line
    pub(crate) async fn run(&self, arguments: &[&str], keys: &str, sections: &str) -> (i32, String) {
        let file = self.configure(keys, sections);
        let mut process =
            Process::relay(arguments.iter().copied().chain(["--config", file.to_str().unwrap()]));
        let status = process.ended(PATIENCE).await;
        (status.code().unwrap_or(-1), process.log().join("\n"))
    }

    /// Why rows were parked.
    pub(crate) async fn parked(&self) -> Vec<String> {
        let asked = sqlx::query_scalar("SELECT last_error FROM relay_parked ORDER BY seq");
        asked.fetch_all(&self.database.pool).await.unwrap()
    }
}
