//! The sagas of a database that is only known at run time.

use std::sync::Arc;

use super::log::SqlSagaLog;
use crate::{orchestration::SagaBook, store::pool::AnyPool};

/// The orchestrated sagas that this database keeps, for people.
#[must_use]
pub fn saga_book(pool: &AnyPool) -> Arc<dyn SagaBook> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => Arc::new(SqlSagaLog::new(pool.clone())),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Arc::new(SqlSagaLog::new(pool.clone())),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Arc::new(SqlSagaLog::new(pool.clone())),
    }
}
