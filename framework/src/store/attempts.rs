//! Attempts, kept in the database of the unit of work so that neither a restart nor another instance resets them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::{
    backend::{Backend, IdempotencyKey},
    kept::Kept,
    unit::bounded,
};
use crate::{
    error::{Error, Result},
    limits,
    retry::AttemptStore,
};

pub(crate) struct SqlAttempts<DB: Backend> {
    kept: Arc<Kept<DB>>,
}

impl<DB: Backend> SqlAttempts<DB> {
    pub(crate) fn new(kept: Arc<Kept<DB>>) -> Self {
        Self { kept }
    }

    /// The right to write, where there is one. Bounded: a guard that a handler never drops keeps it for ever.
    async fn writer(&self) -> Result<Option<OwnedMutexGuard<()>>> {
        let writer = tokio::time::timeout(limits::CALL_TIMEOUT, DB::writer(self.kept.pool())).await;
        writer.map_err(|_| Error::new("somebody else keeps writing to the database"))
    }

    async fn count(&self, key: &IdempotencyKey, by: i32, error: Option<&str>) -> Result<u32> {
        let _writer = self.writer().await?;
        bounded(async {
            let mut connection = self.kept.acquire().await?;
            Ok(DB::count_attempt(&mut connection, key, by, error).await?)
        })
        .await
    }
}

#[async_trait]
impl<DB: Backend> AttemptStore for SqlAttempts<DB> {
    async fn started(&self, key: &IdempotencyKey) -> Result<u32> {
        self.count(key, 1, None).await
    }

    async fn failed(&self, key: &IdempotencyKey, counted: bool, error: &str) -> Result<u32> {
        self.count(key, i32::from(!counted), Some(error)).await
    }

    async fn take_back(&self, key: &IdempotencyKey) -> Result<()> {
        self.count(key, -1, None).await.map(drop)
    }

    async fn forget(&self, key: &IdempotencyKey) -> Result<()> {
        let _writer = self.writer().await?;
        bounded(async {
            let mut connection = self.kept.acquire().await?;
            Ok(DB::forget_attempts(&mut connection, key).await?)
        })
        .await
    }
}
