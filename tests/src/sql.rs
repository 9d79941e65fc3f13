//! One statement for three databases: texts that need no parameters, on a pool or on a connection of its own.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use barid::store::AnyPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Error, Executor, MySqlConnection, PgConnection, Row};
use uuid::Uuid;

/// Runs `$body` with `$db` being the pool or connection that is there.
macro_rules! each {
    ($from:ident, $any:expr, $db:ident => $body:expr) => {
        match $any {
            $from::Postgres($db) => $body,
            $from::MySql($db) => $body,
            $from::Sqlite($db) => $body,
            #[allow(unreachable_patterns)] // `AnyPool` may get more kinds, `Session` has three
            _ => panic!("these tests know three kinds of database"),
        }
    };
}

/// Closes a pool.
pub async fn close(pool: &AnyPool) {
    each!(AnyPool, pool, db => db.close().await);
}

/// The number that a query gives.
///
/// # Errors
/// What the database says.
pub async fn number(pool: &AnyPool, query: &str) -> Result<i64, Error> {
    each!(AnyPool, pool, db => sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(db).await)
}

/// Runs statements, one after the other.
///
/// # Errors
/// What the database says.
pub async fn execute(pool: &AnyPool, statements: &str) -> Result<(), Error> {
    each!(AnyPool, pool, db => db.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await.map(drop))
}

/// The ids that a query gives.
///
/// # Errors
/// What the database says.
pub async fn ids(pool: &AnyPool, query: &str) -> Result<Vec<Uuid>, Error> {
    each!(AnyPool, pool, db => sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(db).await)
}

/// The rows of a query for an id and two numbers.
///
/// # Errors
/// What the database says.
pub async fn numbered_ids(pool: &AnyPool, query: &str) -> Result<Vec<(Uuid, i64, i64)>, Error> {
    each!(AnyPool, pool, db => sqlx::query_as(AssertSqlSafe(query)).fetch_all(db).await)
}

/// The rows of a query for two numbers, by the first, which is in no two rows.
///
/// # Errors
/// What the database says.
pub async fn pairs(pool: &AnyPool, query: &str) -> Result<BTreeMap<i64, i64>, Error> {
    let rows: Vec<(i64, i64)> =
        each!(AnyPool, pool, db => sqlx::query_as(AssertSqlSafe(query)).fetch_all(db).await)?;
    Ok(rows.into_iter().collect())
}

/// A SQL queue in its order: position, id and body.
///
/// # Errors
/// What the database says.
pub async fn queue(pool: &AnyPool, queue: &str) -> Result<Vec<(i64, Uuid, Vec<u8>)>, Error> {
    let query = format!("SELECT seq, id, body FROM queue_message WHERE queue = '{queue}' ORDER BY seq");
    each!(AnyPool, pool, db => {
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(db).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
    })
}

/// A connection of its own, for transactions. Dropping it ends whatever is open on it.
#[derive(Debug)]
pub enum Session {
    /// PostgreSQL.
    Postgres(PgConnection),
    /// MariaDB.
    MySql(MySqlConnection),
    /// SQLite.
    Sqlite(SqliteConnection),
}

impl Session {
    /// Connects to the database of this address.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)?.busy_timeout(Duration::from_secs(20));
            return SqliteConnection::connect_with(&options).await.map(Self::Sqlite);
        }
        if url.starts_with("mysql:") {
            return MySqlConnection::connect(url).await.map(Self::MySql);
        }
        PgConnection::connect(url).await.map(Self::Postgres)
    }

    /// Opens a transaction that may write.
    ///
    /// # Errors
    /// What the database says.
    pub async fn begin(&mut self) -> Result<(), Error> {
        self.execute(if matches!(self, Self::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" }).await
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// What the database says.
    pub async fn execute(&mut self, statement: &str) -> Result<(), Error> {
        each!(Self, self, db => db.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.map(drop))
    }

    /// The number that a query gives.
    ///
    /// # Errors
    /// What the database says.
    pub async fn number(&mut self, query: &str) -> Result<i64, Error> {
        each!(Self, self, db => sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(db).await)
    }

    /// Bytes as this database writes them.
    #[must_use]
    pub fn bytes(&self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if matches!(self, Self::Postgres(_)) { format!("'\\x{hex}'") } else { format!("x'{hex}'") }
    }

    /// An id as this database writes it.
    #[must_use]
    pub fn id(&self, id: Uuid) -> String {
        if matches!(self, Self::Postgres(_)) { format!("'{id}'") } else { self.bytes(id.as_bytes()) }
    }
}
