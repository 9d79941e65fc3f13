//! The tables: which there are, whether a database has them, and how it gets them.
//!
//! The SQL is in the folder `migrations`, one folder a database with the same numbers and names in each, and compiled in.
//! Nothing is ever applied unless somebody asks: [`apply`] is what `barid-relay schema apply` calls, [`check`] is what a bus
//! and a relay call at their start. What was applied is written in the table `barid_schema`, with a checksum, so that a file
//! that was changed afterwards is noticed.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::store::pool::{AnyPool, Dialect};

mod compare;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

impl SchemaError {
    /// Whether trying again without changing anything can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Newer { .. } | Self::Changed { .. } | Self::Failed { .. } => false,
            Self::Locked { .. } => true,
            // Refused credentials, no such database, no permission: the classes of SQLSTATE for what somebody has to change.
            Self::Database { cause: sqlx::Error::Database(said), .. } => !said
                .code()
                .is_some_and(|code| ["28", "3D", "42"].iter().any(|class| code.starts_with(class))),
            Self::Database { cause: sqlx::Error::Configuration(_), .. } => false,
            Self::Database { .. } => true,
        }
    }
}

/// One step of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1.
    pub version: u32,
    /// Its name: what the file is called after the number.
    pub name: &'static str,
    /// What it does.
    pub sql: &'static str,
}

/// How a database stands to what this program knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Steps that this program knows and the database has.
    pub applied: Vec<Migration>,
    /// Steps that this program knows and the database lacks.
    pub pending: Vec<Migration>,
    /// Steps that the database has and this program does not know: a newer program applied them.
    pub newer: Vec<(u32, String)>,
}

/// Why a schema cannot be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Steps are missing. Apply them.
    #[error("{place} lacks {missing} of Barid's schema; run: barid-relay schema apply")]
    Missing {
        /// The database.
        place: String,
        /// The steps, by number and name.
        missing: String,
    },
    /// A newer program has changed the schema. This one must not touch it: update the program.
    #[error(
        "{place} has schema version {found} ({name}) and this program knows versions up to {known}; \
         update this program to the release that applied it"
    )]
    Newer {
        /// The database.
        place: String,
        /// The newest version that the database has.
        found: u32,
        /// That version's name.
        name: String,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A step was applied with another text than this program has. Somebody changed a migration after the fact.
    #[error(
        "{place} has schema version {version} ({name}) with checksum {found}, this program has {expected}: the migration was \
         changed after it was applied; use the program that applied it, or compare the tables with \
         `barid-relay schema print` and correct the row in barid_schema"
    )]
    Changed {
        /// The database.
        place: String,
        /// The version.
        version: u32,
        /// Its name.
        name: String,
        /// The checksum in the database.
        found: String,
        /// The checksum of this program's text.
        expected: String,
    },
    /// Another process is applying and did not finish in time. Look whether it hangs, then run it again.
    #[error(
        "another process is applying the schema of {place} and did not finish within {waited_s} s; try again"
    )]
    Locked {
        /// The database.
        place: String,
        /// How long this process waited.
        waited_s: u64,
    },
    /// A step failed. On PostgreSQL and SQLite nothing was changed; on MariaDB and MySQL the steps before it stay.
    #[error("{place}: schema version {version} ({name}) failed: {cause}")]
    Failed {
        /// The database.
        place: String,
        /// The version.
        version: u32,
        /// Its name.
        name: &'static str,
        /// What the database said.
        #[source]
        cause: sqlx::Error,
    },
    /// The database failed, or refused to show what it has.
    #[error("{place}: cannot read or change the schema: {cause}")]
    Database {
        /// The database.
        place: String,
        /// What it said.
        #[source]
        cause: sqlx::Error,
    },
}

/// How long [`apply`] waits for another process that is applying.
pub const APPLY_WAIT_S: u64 = 60;

/// Every step, in order.
#[must_use]
pub fn migrations(dialect: Dialect) -> &'static [Migration] {
    match dialect {
        Dialect::Postgres => POSTGRES,
        Dialect::MySql => MYSQL,
        Dialect::Sqlite => SQLITE,
    }
}

/// The whole schema as text, for people who apply SQL by other means. It ends with the rows that tell [`check`] that the
/// schema is there.
#[must_use]
pub fn print(dialect: Dialect) -> String {
    let mut text = format!("-- Barid's schema for {dialect}.\n\n{};\n", bookkeeping(dialect));
    for step in migrations(dialect) {
        let Migration { version, name, sql } = step;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n-- {version:04} {name}\n\n{}\n\nINSERT INTO barid_schema (version, name, checksum) VALUES ({version}, '{name}', '{}');\n",
            sql.trim_end(),
            step.checksum(),
        );
    }
    text
}

/// Applies what is missing and returns it. Two processes may do this at once: one waits for the other and finds nothing left.
///
/// # Errors
/// [`SchemaError`]; nothing is changed when the database is newer than this program or a migration was changed.
pub async fn apply(pool: &AnyPool) -> Result<Vec<Migration>, SchemaError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(on) => postgres::apply(on, &pool.place()).await,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(on) => mysql::apply(on, &pool.place()).await,
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(on) => sqlite::apply(on, &pool.place()).await,
    }
}

/// What the database has and lacks. Changes nothing.
///
/// # Errors
/// [`SchemaError::Changed`] and [`SchemaError::Database`].
pub async fn status(pool: &AnyPool) -> Result<Status, SchemaError> {
    let place = pool.place();
    let rows = match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(on) => postgres::applied(on).await,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(on) => mysql::applied(on).await,
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(on) => sqlite::applied(on).await,
    };
    let rows = rows.map_err(|cause| SchemaError::Database { place: place.clone(), cause })?;
    compare::compare(&place, migrations(pool.dialect()), rows)
}

/// That the database has exactly what this program knows.
///
/// # Errors
/// [`SchemaError`], which says what to do.
pub async fn check(pool: &AnyPool) -> Result<(), SchemaError> {
    status(pool).await?.check(&pool.place())
}

impl Migration {
    /// What the table `barid_schema` remembers of the text: a UUIDv5 of it, however its lines end.
    #[must_use]
    pub fn checksum(&self) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.sql.replace("\r\n", "\n").as_bytes()).to_string()
    }
}

impl std::fmt::Display for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}_{}", self.version, self.name)
    }
}

/// The table that remembers what was applied.
const fn bookkeeping(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => {
            "CREATE TABLE IF NOT EXISTS barid_schema (version integer PRIMARY KEY, name text NOT NULL, \
             checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        }
        Dialect::MySql => {
            "CREATE TABLE IF NOT EXISTS barid_schema (version INT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, \
             checksum VARCHAR(200) NOT NULL, applied_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))) \
             ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin"
        }
        Dialect::Sqlite => {
            "CREATE TABLE IF NOT EXISTS barid_schema (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, \
             applied_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))) STRICT"
        }
    }
}

/// One step of `$folder`, by number and name.
macro_rules! step {
    ($folder:literal, $number:literal, $version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../migrations/", $folder, "/", $number, "_", $name, ".sql")),
        }
    };
}

/// The steps of `$folder`: the same for every database.
macro_rules! steps {
    ($folder:literal) => {
        &[
            step!($folder, "0001", 1, "outbox"),
            step!($folder, "0002", 2, "idempotency"),
            step!($folder, "0003", 3, "attempts"),
            step!($folder, "0004", 4, "queue"),
            step!($folder, "0005", 5, "relay"),
            step!($folder, "0006", 6, "schedule"),
            step!($folder, "0007", 7, "saga"),
            step!($folder, "0008", 8, "subscriptions"),
            step!($folder, "0009", 9, "results"),
            step!($folder, "0010", 10, "lease"),
            step!($folder, "0011", 11, "parked"),
            step!($folder, "0012", 12, "distributed"),
            step!($folder, "0013", 13, "event_store"),
            step!($folder, "0014", 14, "idempotency_keys"),
            step!($folder, "0015", 15, "distributed_audit"),
            step!($folder, "0016", 16, "orchestration"),
            step!($folder, "0017", 17, "archive"),
        ]
    };
}

const POSTGRES: &[Migration] = steps!("postgres");
const MYSQL: &[Migration] = steps!("mysql");
const SQLITE: &[Migration] = steps!("sqlite");
