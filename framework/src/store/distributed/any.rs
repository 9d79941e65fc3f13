//! Decision logs and resources of a database that is only known at run time.

use std::sync::Arc;

use super::{branch::SqlResource, last::SqlLastResource, log::SqlDecisionLog};
use crate::{
    distributed::{DecisionLog, Resource, ResourceId},
    store::pool::AnyPool,
};

/// The decision log in this database.
#[must_use]
pub fn decision_log(pool: &AnyPool) -> Arc<dyn DecisionLog> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
    }
}

/// This database as one that takes part. SQLite, which cannot be prepared, takes part as a last resource; its name and its marker are
/// all that recovery needs of either.
#[must_use]
pub fn resource(id: ResourceId, pool: &AnyPool) -> Arc<dyn Resource> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => SqlResource::new(id, pool.clone()),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => SqlResource::new(id, pool.clone()),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => SqlLastResource::new(id, pool.clone()),
    }
}
