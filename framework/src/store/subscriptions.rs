//! Subscriptions in a table: for publishers and subscribers that share a database, or one database that they all reach.

use async_trait::async_trait;

use super::{AnyPool, contention, schema};
use crate::{
    error::{Error, Result},
    limits,
    subscriptions::SubscriptionStore,
};

/// Subscriptions in the table `subscription` of a database.
///
/// A handler's unit of work holds a connection while its events are given their subscribers: the pool needs one more than
/// handlers run at the same time, or is a pool of its own.
#[derive(Clone, Debug)]
pub struct SqlSubscriptions {
    pool: AnyPool,
}

impl SqlSubscriptions {
    /// The subscriptions in the database that `pool` is open on. The schema must be there: `barid-relay schema apply`.
    #[must_use]
    pub fn new(pool: impl Into<AnyPool>) -> Self {
        Self { pool: pool.into() }
    }

    async fn run<T, F: Future<Output = Result<T, sqlx::Error>>>(
        &self,
        statement: impl Fn() -> F,
    ) -> Result<T> {
        contention::run(statement).await.map_err(|error| match error {
            Some(error) => Error::from(error).context(format!("subscriptions at {}", self.pool.place())),
            None => {
                Error::new(format!("{} did not answer within {:?}", self.pool.place(), limits::CALL_TIMEOUT))
            }
        })
    }
}

/// Runs one function of the database's own module.
macro_rules! on {
    ($self:ident, $function:ident, $($argument:expr),*) => {
        match &$self.pool {
            #[cfg(feature = "postgres")]
            AnyPool::Postgres(pool) => {
                $self.run(|| super::postgres::subscriptions::$function(pool, $($argument),*)).await
            }
            #[cfg(feature = "mysql")]
            AnyPool::MySql(pool) => $self.run(|| super::mysql::subscriptions::$function(pool, $($argument),*)).await,
            #[cfg(feature = "sqlite")]
            AnyPool::Sqlite(pool) => $self.run(|| super::sqlite::subscriptions::$function(pool, $($argument),*)).await,
        }
    };
}

#[async_trait]
impl SubscriptionStore for SqlSubscriptions {
    async fn ready(&self) -> Result<()> {
        Ok(schema::check(&self.pool).await?)
    }

    async fn subscribers(&self, topic: &str, queues_max: usize) -> Result<Vec<String>> {
        on!(self, subscribers, topic, i64::try_from(queues_max).unwrap_or(i64::MAX))
    }

    async fn subscribe(&self, topic: &str, queue: &str) -> Result<()> {
        on!(self, subscribe, topic, queue)
    }

    async fn unsubscribe(&self, topic: &str, queue: &str) -> Result<()> {
        on!(self, unsubscribe, topic, queue)
    }
}
