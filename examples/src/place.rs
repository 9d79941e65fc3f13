//! Where a run keeps its tables: a SQLite file in a temporary folder, or a PostgreSQL database of its own.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A new place without tables.
#[derive(Debug)]
pub struct Place {
    /// The address of the shop's database.
    pub url: String,
    /// The address of the journal's.
    pub journal_url: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Folder(TempDir),
    #[cfg(feature = "postgres")]
    Database {
        server: String,
        name: String,
    },
}

impl Place {
    /// A temporary folder for SQLite files, or with the address of a PostgreSQL a new database there.
    ///
    /// # Errors
    /// When `server` is no PostgreSQL, refuses, or needs a feature that this program was built without.
    pub async fn new(server: Option<&str>) -> anyhow::Result<Self> {
        match server {
            None => {
                let folder = tempfile::Builder::new().prefix("barid-shop-").tempdir()?;
                Ok(Self::sqlite(folder))
            }
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                postgres(url).await
            }
            Some(url) => anyhow::bail!(
                "{} is no PostgreSQL: write --database postgres://USER:PASSWORD@HOST:PORT/DATABASE, \
                 or leave --database out for SQLite",
                barid::store::pool::redacted(url)
            ),
        }
    }

    /// SQLite files in this folder, which may be there already.
    #[must_use]
    pub fn sqlite(folder: TempDir) -> Self {
        let file = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
        // The journal's order matters, its survival of a power cut does not.
        let journal_url = format!("{}?synchronous=off", file("journal.db"));
        Self { url: file("shop.db"), journal_url, home: Home::Folder(folder) }
    }

    /// The folder of the files, on SQLite.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.home {
            Home::Folder(folder) => Some(folder.path()),
            #[cfg(feature = "postgres")]
            Home::Database { .. } => None,
        }
    }

    /// Removes everything. Close all pools before.
    ///
    /// # Errors
    /// When something is still in use.
    pub async fn remove(self) -> anyhow::Result<()> {
        match self.home {
            Home::Folder(folder) => Ok(folder.close()?),
            #[cfg(feature = "postgres")]
            Home::Database { server, name } => {
                administer(&server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            }
        }
    }

    /// Leaves everything as it is, and says where.
    #[must_use]
    pub fn keep(self) -> String {
        match self.home {
            Home::Folder(folder) => {
                let folder: PathBuf = folder.keep();
                format!("{0}/shop.db and {0}/journal.db", folder.display())
            }
            #[cfg(feature = "postgres")]
            Home::Database { .. } => barid::store::pool::redacted(&self.url),
        }
    }
}

#[cfg(not(feature = "postgres"))]
#[allow(clippy::unused_async)] // the other one is async
async fn postgres(_url: &str) -> anyhow::Result<Place> {
    anyhow::bail!(
        "this program was built without PostgreSQL: build it with --features postgres, for instance\n  \
         cargo run --release --features postgres --example quickstart -- --database postgres://.."
    )
}

#[cfg(feature = "postgres")]
async fn postgres(server: &str) -> anyhow::Result<Place> {
    use anyhow::Context;

    // Letters, digits and underscores only: it goes into statements as it is.
    let name = format!("barid_shop_{}", uuid::Uuid::now_v7().simple());
    administer(server, format!("CREATE DATABASE {name}"))
        .await
        .context("the run wants a database of its own; may this user create one?")?;
    let mut url = url::Url::parse(server).context("the address of the PostgreSQL")?;
    url.set_path(&name);
    let home = Home::Database { server: server.to_owned(), name };
    Ok(Place { url: url.to_string(), journal_url: url.to_string(), home })
}

#[cfg(feature = "postgres")]
async fn administer(server: &str, statement: String) -> anyhow::Result<()> {
    let pool = barid::store::AnyPool::connect(server, 1).await?;
    let statement = sqlx::AssertSqlSafe(statement);
    let done = on_database!(&pool, pool => sqlx::raw_sql(statement).execute(pool).await.map(drop));
    pool.close().await;
    done
}
