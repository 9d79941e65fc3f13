//! A database of its own for each test, on each of the three kinds of server.
//!
//! Created empty under a unique name and dropped with the value. Tests apply the schema that they need themselves.

use std::str::FromStr;

use sqlx::mysql::{MySql, MySqlPoolOptions};
use sqlx::postgres::{PgPoolOptions, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection, Database, Executor, MySqlConnection, PgConnection, Pool};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use crate::servers;

/// How many connections the pool of a test database opens at most.
pub const POOL_CONNECTIONS_MAX: u32 = 10;

/// An empty database that belongs to one test.
///
/// Dropped on `Drop` as well as on [`drop_now`](Self::drop_now); the latter reports what went wrong.
#[derive(Debug)]
pub struct TestDatabase<DB: Database> {
    /// Connects to this database.
    pub url: String,
    /// A pool on it, of at most [`POOL_CONNECTIONS_MAX`] connections.
    pub pool: Pool<DB>,
    home: Option<Home>,
}

/// Where a test database lives, and so how it is removed.
#[derive(Debug)]
enum Home {
    Postgres { server: String, name: String },
    MariaDb { server: String, name: String },
    Sqlite(TempDir),
}

impl TestDatabase<Postgres> {
    /// A new database on the PostgreSQL under test.
    ///
    /// # Panics
    /// When the server is not there, or refuses.
    pub async fn postgres() -> Self {
        let (server, name) = (servers::postgres(), unique_name());
        let url = with_database(&server, &name);
        let mut admin = PgConnection::connect(&server).await.expect("a connection to PostgreSQL");
        // Not template1: a session that happens to be connected to it would fail this.
        execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        admin.close().await.expect("the connection to PostgreSQL closes");
        let options = PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        let pool = options.connect(&url).await.expect("a pool on the new database");
        Self { url, pool, home: Some(Home::Postgres { server, name }) }
    }
}

impl TestDatabase<MySql> {
    /// A new database on the MariaDB or MySQL under test.
    ///
    /// # Panics
    /// When the server is not there, or refuses.
    pub async fn mariadb() -> Self {
        let (server, name) = (servers::mariadb(), unique_name());
        let url = with_database(&server, &name);
        let mut admin = MySqlConnection::connect(&server).await.expect("a connection to MariaDB");
        execute(&mut admin, format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
        admin.close().await.expect("the connection to MariaDB closes");
        let options = MySqlPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        let pool = options.connect(&url).await.expect("a pool on the new database");
        Self { url, pool, home: Some(Home::MariaDb { server, name }) }
    }
}

impl TestDatabase<Sqlite> {
    /// A new SQLite file in a temporary folder, in WAL mode.
    ///
    /// # Panics
    /// When the folder or the file cannot be written.
    pub async fn sqlite() -> Self {
        let folder = tempfile::Builder::new().prefix("barid-test-").tempdir().expect("a temporary folder");
        let file = folder.path().join("test.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let options = SqliteConnectOptions::from_str(&url).expect("the URL of a SQLite file");
        let options = options.journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(POOL_CONNECTIONS_MAX);
        let pool = pool.connect_with(options).await.expect("a pool on the new file");
        Self { url, pool, home: Some(Home::Sqlite(folder)) }
    }
}

impl<DB: Database> TestDatabase<DB> {
    /// Closes the pool and removes the database, with whatever is still connected to it.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn drop_now(mut self) {
        self.pool.close().await;
        if let Some(home) = self.home.take() {
            home.remove().await.expect("the test database is dropped");
        }
    }
}

impl<DB: Database> Drop for TestDatabase<DB> {
    /// Best effort, on a thread of its own: a test that has already failed does not fail twice.
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(home.remove())
        });
        if !matches!(removal.join(), Ok(Ok(()))) {
            eprintln!("a test database could not be dropped");
        }
    }
}

impl Home {
    async fn remove(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres { server, name } => {
                let mut admin = PgConnection::connect(&server).await?;
                // What a test left prepared would keep the database from being dropped, and hold back every snapshot of the server.
                let prepared = "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE database = $1";
                let prepared: Vec<String> =
                    sqlx::query_scalar(prepared).bind(&name).fetch_all(&mut admin).await?;
                if !prepared.is_empty() {
                    let mut inside = PgConnection::connect(&with_database(&server, &name)).await?;
                    for gid in prepared {
                        let end = AssertSqlSafe(format!("ROLLBACK PREPARED {gid}"));
                        sqlx::raw_sql(end).execute(&mut inside).await?;
                    }
                    inside.close().await?;
                }
                let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                sqlx::raw_sql(drop).execute(&mut admin).await?;
                admin.close().await
            }
            Self::MariaDb { server, name } => {
                let mut admin = MySqlConnection::connect(&server).await?;
                // An open transaction on one of its tables must not hold the test up for MariaDB's default of one day.
                let drop =
                    AssertSqlSafe(format!("SET lock_wait_timeout = 10; DROP DATABASE IF EXISTS {name}"));
                sqlx::raw_sql(drop).execute(&mut admin).await?;
                admin.close().await
            }
            Self::Sqlite(folder) => folder.close().map_err(sqlx::Error::Io),
        }
    }
}

/// Letters, digits and underscores only: it goes into statements as it is.
fn unique_name() -> String {
    format!("barid_test_{}", Uuid::now_v7().simple())
}

fn with_database(server: &str, name: &str) -> String {
    let mut url = Url::parse(server).expect("the URL of a test server");
    url.set_path(name);
    url.into()
}

async fn execute<'c>(connection: impl Executor<'c>, statement: String) {
    connection.execute(AssertSqlSafe(statement)).await.expect("the server creates a database");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ways out, and neither leaves the database behind, not even while a transaction is open in it.
    macro_rules! is_gone_afterwards {
        ($test:ident, $database:ident, $connection:ty) => {
            #[tokio::test]
            async fn $test() {
                for at_once in [true, false] {
                    let database = TestDatabase::$database().await;
                    database.pool.execute("CREATE TABLE t (id INT)").await.unwrap();
                    let url = database.url.replace("?mode=rwc", "");
                    let mut open = <$connection>::connect(&url).await.unwrap();
                    open.execute("BEGIN").await.unwrap();
                    open.execute("SELECT id FROM t").await.unwrap();
                    if at_once {
                        open.close().await.unwrap();
                        database.drop_now().await;
                    } else {
                        drop(open);
                        drop(database);
                    }
                    assert!(<$connection>::connect(&url).await.is_err(), "at once: {at_once}");
                }
            }
        };
    }

    is_gone_afterwards!(postgres_is_gone, postgres, PgConnection);
    is_gone_afterwards!(mariadb_is_gone, mariadb, MySqlConnection);
    is_gone_afterwards!(sqlite_is_gone, sqlite, sqlx::SqliteConnection);
}
