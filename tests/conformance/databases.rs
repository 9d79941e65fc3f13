//! An empty database of each kind for one test, behind one type.

use std::any::Any;

use barid::store::AnyPool;
use barid_tests::TestDatabase;
use sqlx::Executor;

/// The databases that a conformance test runs on.
pub(crate) const KINDS: [Kind; 3] = [Kind::Postgres, Kind::MariaDb, Kind::Sqlite];

/// One kind of database.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// At `BARID_TEST_POSTGRES_URL`.
    Postgres,
    /// At `BARID_TEST_MARIADB_URL`.
    MariaDb,
    /// A file in a temporary folder.
    Sqlite,
}

/// An empty database. Dropped with the value.
pub(crate) struct Fresh {
    /// Its address.
    pub(crate) url: String,
    _database: Box<dyn Any>,
}

impl Fresh {
    /// Makes one.
    pub(crate) async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Postgres => {
                let database = TestDatabase::postgres().await;
                Self { url: database.url.clone(), _database: Box::new(database) }
            }
            Kind::MariaDb => {
                let database = TestDatabase::mariadb().await;
                Self { url: database.url.clone(), _database: Box::new(database) }
            }
            Kind::Sqlite => {
                let database = TestDatabase::sqlite().await;
                // No test here cuts the power.
                Self { url: format!("{}&synchronous=off", database.url), _database: Box::new(database) }
            }
        }
    }

    /// A pool of its own on it.
    pub(crate) async fn pool(&self) -> AnyPool {
        AnyPool::connect(&self.url, 8).await.expect("a pool on the new database")
    }
}

/// Runs SQL that is the same on all three, and says how many rows it touched.
pub(crate) async fn run(pool: &AnyPool, sql: &'static str) -> u64 {
    let done = match pool {
        AnyPool::Postgres(pool) => pool.execute(sql).await.map(|done| done.rows_affected()),
        AnyPool::MySql(pool) => pool.execute(sql).await.map(|done| done.rows_affected()),
        AnyPool::Sqlite(pool) => pool.execute(sql).await.map(|done| done.rows_affected()),
        _ => unreachable!("there are three databases"),
    };
    done.expect("the database takes the statement")
}
