//! A fresh, empty database of each kind for one test.

use std::io::Write as _;

use barid::store::AnyPool;
use sqlx::Executor;
use uuid::Uuid;

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

/// An empty database, and the folder that it is in if it is a file.
pub(crate) struct Fresh {
    /// Its address.
    pub(crate) url: String,
    _folder: Option<tempfile::TempDir>,
}

impl Fresh {
    /// Makes one. `None`, and a loud word, when there is no server.
    pub(crate) async fn new(kind: Kind) -> Option<Self> {
        let name = format!("barid_{}", Uuid::now_v7().simple());
        let create = format!("CREATE DATABASE {name}");
        let (folder, url) = match kind {
            Kind::Postgres => {
                let server = server("BARID_TEST_POSTGRES_URL")?;
                let pool = sqlx::PgPool::connect(&server).await.unwrap();
                pool.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
                (None, with_database(&server, &name))
            }
            Kind::MariaDb => {
                let server = server("BARID_TEST_MARIADB_URL")?;
                let pool = sqlx::MySqlPool::connect(&server).await.unwrap();
                pool.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
                (None, with_database(&server, &name))
            }
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}?synchronous=off", folder.path().join("barid.db").display());
                (Some(folder), url)
            }
        };
        Some(Self { url, _folder: folder })
    }

    /// A pool of its own on it.
    pub(crate) async fn pool(&self) -> AnyPool {
        AnyPool::connect(&self.url, 8).await.unwrap()
    }
}

/// Runs SQL that is the same on all three.
pub(crate) async fn run(pool: &AnyPool, sql: &'static str) -> u64 {
    match pool {
        AnyPool::Postgres(pool) => pool.execute(sql).await.unwrap().rows_affected(),
        AnyPool::MySql(pool) => pool.execute(sql).await.unwrap().rows_affected(),
        AnyPool::Sqlite(pool) => pool.execute(sql).await.unwrap().rows_affected(),
        _ => unreachable!("there are three databases"),
    }
}

fn server(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        // Past the test harness, which would swallow it. There is nobody to tell when stderr is closed.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {variable} is not set; tests/run starts the servers");
    }
    url
}

fn with_database(server: &str, name: &str) -> String {
    let mut url = url::Url::parse(server).unwrap();
    url.set_path(name);
    url.to_string()
}
