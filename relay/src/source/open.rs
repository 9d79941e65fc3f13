//! From an opened database to the source that fits it.

use std::sync::Arc;

use barid::store::AnyPool;

use super::Source;
use crate::parked::ParkedStore;

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
