//! A database with an outbox, and beside it a table that says what was really committed.

use barid::store::{AnyPool, pool::Dialect, schema};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};
use uuid::Uuid;

use crate::{TestDatabase, sql};

/// The counters that transactions of one key take turns on, and every row that was committed, in the same transaction as its
/// outbox row.
const TABLES: &str = "CREATE TABLE load_counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
    CREATE TABLE load_row (id ID NOT NULL, number BIGINT NOT NULL, n BIGINT NOT NULL)";

/// What a message of the load says: it is the `n`-th of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// The ordering key.
    pub key: i64,
    /// Grows with every row of the key, with gaps where a transaction was rolled back by hand; see
    /// [`Load`](crate::load::Load).
    pub n: i64,
}

/// The three kinds of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
    /// SQLite.
    Sqlite,
}

impl Database {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MariaDb, Self::Sqlite];
}

/// A database with the schema, and the tables of the load.
#[derive(Debug)]
pub struct Outbox {
    /// Where it is.
    pub url: String,
    /// For looking at it.
    pub pool: AnyPool,
    home: Home,
}

/// What is dropped with it.
#[derive(Debug)]
enum Home {
    Postgres(TestDatabase<Postgres>),
    MariaDb(TestDatabase<MySql>),
    Sqlite(TestDatabase<Sqlite>),
    Private,
}

impl Outbox {
    /// A new database of this kind, on the server under test.
    ///
    /// # Panics
    /// When the server is not there, or refuses.
    pub async fn new(database: Database) -> Self {
        let (url, home) = match database {
            Database::Postgres => {
                let database = TestDatabase::postgres().await;
                (database.url.clone(), Home::Postgres(database))
            }
            Database::MariaDb => {
                let database = TestDatabase::mariadb().await;
                (database.url.clone(), Home::MariaDb(database))
            }
            Database::Sqlite => {
                let database = TestDatabase::sqlite().await;
                (database.url.clone(), Home::Sqlite(database))
            }
        };
        Self { home, ..Self::at(&url).await }
    }

    /// In the database of this address, which belongs to the test: that of a private server.
    ///
    /// # Panics
    /// When the server is not there, or refuses.
    pub async fn at(url: &str) -> Self {
        let pool = AnyPool::connect(url, 4).await.expect("the database answers");
        schema::apply(&pool).await.expect("the schema is applied");
        let id = match pool.dialect() {
            Dialect::Postgres => "UUID",
            Dialect::MySql => "BINARY(16)",
            Dialect::Sqlite => "BLOB",
        };
        for table in TABLES.replace("id ID", &format!("id {id}")).split(';') {
            sql::execute(&pool, table).await.expect("the tables of the load are made");
        }
        Self { url: url.to_owned(), pool, home: Home::Private }
    }

    /// Every row that was committed.
    ///
    /// # Panics
    /// When the database does not answer; so do the others.
    pub async fn committed(&self) -> Vec<(Uuid, Posted)> {
        let rows = sql::numbered_ids(&self.pool, "SELECT id, number, n FROM load_row").await;
        let posted = |(id, key, n)| (id, Posted { key, n });
        rows.expect("the database says what was committed").into_iter().map(posted).collect()
    }

    /// Rows in the outbox.
    pub async fn left(&self) -> usize {
        let left = sql::number(&self.pool, "SELECT count(*) FROM outbox").await;
        usize::try_from(left.expect("the database counts the outbox")).expect("a count")
    }

    /// The ids in the outbox, in its order.
    pub async fn waiting(&self) -> Vec<Uuid> {
        let waiting = sql::ids(&self.pool, "SELECT id FROM outbox ORDER BY seq").await;
        waiting.expect("the database shows the outbox")
    }

    /// The ids in the archive, in its order.
    pub async fn archived(&self) -> Vec<Uuid> {
        let archived = sql::ids(&self.pool, "SELECT id FROM relay_archive ORDER BY position").await;
        archived.expect("the database shows the archive")
    }

    /// The ids of parked rows.
    pub async fn parked(&self) -> Vec<Uuid> {
        sql::ids(&self.pool, "SELECT id FROM relay_parked").await.expect("the database shows what is parked")
    }

    /// Closes the pool and removes the database.
    pub async fn drop_now(self) {
        sql::close(&self.pool).await;
        match self.home {
            Home::Postgres(database) => database.drop_now().await,
            Home::MariaDb(database) => database.drop_now().await,
            Home::Sqlite(database) => database.drop_now().await,
            Home::Private => {}
        }
    }
}
