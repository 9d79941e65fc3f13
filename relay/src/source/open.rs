//! From an opened database to the source that fits it.

use std::{sync::Arc, time::Duration};

use barid::store::AnyPool;

use super::{Source, SourceError, identifier::Identifier, mapping::Mapping};
use crate::{archive::ArchiveStore, doctor::Report, explain::Finder, parked::ParkedStore, survey::Survey};

/// How to read, beyond the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// PostgreSQL: the channel on which programs without a doorbell notify.
    pub listen: Option<Identifier>,
    /// PostgreSQL: a table of somebody else instead of `outbox`; see [`PostgresSource::mapped`](super::postgres::PostgresSource::mapped).
    pub table: Option<Mapping>,
}

/// The outbox of the database that `pool` is open on, under the name `name`.
#[must_use]
pub fn source(name: &str, pool: &AnyPool) -> Arc<dyn Source> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => Arc::new(super::postgres::PostgresSource::new(name, pool)),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Arc::new(super::mysql::MySqlSource::new(name, pool)),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Arc::new(super::sqlite::SqliteSource::new(name, pool.clone())),
        // AnyPool may learn a database that this relay does not have compiled in.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}

/// As [`source`], with options.
///
/// # Errors
/// When the database cannot do what they ask for.
pub fn source_with(name: &str, pool: &AnyPool, options: &Options) -> Result<Arc<dyn Source>, SourceError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => {
            let mut source = super::postgres::PostgresSource::new(name, pool);
            if let Some(channel) = &options.listen {
                source = source.listen_to(channel.as_str());
            }
            if let Some(table) = &options.table {
                source = source.mapped(table.clone());
            }
            Ok(Arc::new(source))
        }
        _ if *options != Options::default() => Err(SourceError::Unsuitable {
            source_name: name.to_owned(),
            cause: "listen, table and preset are for PostgreSQL only".to_owned(),
            remedy: "remove them; ring a doorbell, or poll",
        }),
        _ => Ok(source(name, pool)),
    }
}

/// The parked messages of the source `name` in this database.
#[must_use]
pub fn parked(name: &str, pool: &AnyPool) -> Box<dyn ParkedStore> {
    let source = name.to_owned();
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => {
            Box::new(super::postgres::parked::PostgresParked { source, pool: pool.clone() })
        }
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Box::new(super::mysql::parked::MySqlParked { source, pool: pool.clone() }),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Box::new(super::sqlite::parked::SqliteParked { source, pool: pool.clone() }),
        // As above.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}

/// The archived messages of the source `name` in this database; with the options that it is read with.
///
/// # Errors
/// When they name a table that does not fit.
#[allow(unused_variables)] // not every database needs all of them
pub async fn archive(
    name: &str,
    pool: &AnyPool,
    options: &Options,
) -> Result<Box<dyn ArchiveStore>, SourceError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => super::postgres::replay::open(name, pool, options.table.as_ref()).await,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Ok(super::mysql::replay::open(name, pool)),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Ok(super::sqlite::replay::open(name, pool)),
        // As above.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}

/// Where messages of the source `name` are in this database; with the options that it is read with.
///
/// # Errors
/// When they name a table that does not fit.
#[allow(unused_variables)] // not every database needs all of them
pub async fn finder(name: &str, pool: &AnyPool, options: &Options) -> Result<Box<dyn Finder>, SourceError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => super::postgres::explain::open(name, pool, options.table.as_ref()).await,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Ok(super::mysql::explain::open(name, pool)),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Ok(super::sqlite::explain::open(name, pool)),
        // As above.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}

/// What this database says about the source `name`; with the options that it is read with.
///
/// # Errors
/// When the database fails, or does not answer in time.
#[allow(unused_variables)] // not every database needs all of them
pub async fn survey(name: &str, pool: &AnyPool, options: &Options) -> Result<Survey, SourceError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => super::postgres::survey::survey(name, pool, options.table.as_ref()).await,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => super::mysql::survey::survey(name, pool).await,
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => super::sqlite::survey::survey(name, pool).await,
        // As above.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}

/// Looks for what is wrong with the database of the source `name`. Transactions count as old from `old` on; `archives` says whether
/// published rows are archived there.
///
/// # Errors
/// When the database fails, or does not answer in time; what was found by then is in the report.
#[allow(unused_variables)] // not every database needs all of them
pub async fn examine(
    name: &str,
    pool: &AnyPool,
    options: &Options,
    archives: bool,
    old: Duration,
    report: &mut Report,
) -> Result<(), SourceError> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => {
            super::postgres::doctor::examine(name, pool, options.table.as_ref(), archives, old, report).await
        }
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => super::mysql::doctor::examine(name, pool, archives, old, report).await,
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => super::sqlite::doctor::examine(name, pool, report).await,
        // As above.
        #[allow(unreachable_patterns)]
        _ => unreachable!("the features of the relay's sources are those of the framework's stores"),
    }
}
