//! From an opened database to the source that fits it.

use std::sync::Arc;

use barid::store::AnyPool;

use super::{Source, SourceError};

/// How to read, beyond the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// PostgreSQL: the channel on which programs without a doorbell notify.
    pub listen: Option<String>,
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
    match (pool, &options.listen) {
        #[cfg(feature = "postgres")]
        (AnyPool::Postgres(pool), Some(channel)) => {
            Ok(Arc::new(super::postgres::PostgresSource::new(name, pool).listen_to(channel)))
        }
        (_, Some(_)) => Err(SourceError::Unsuitable {
            source_name: name.to_owned(),
            cause: "only PostgreSQL has notifications to listen to".to_owned(),
            remedy: "remove listen, and ring a doorbell or poll",
        }),
        (_, None) => Ok(source(name, pool)),
    }
}
