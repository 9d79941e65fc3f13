//! Attempts, kept in the database of the unit of work so that neither a restart nor another instance resets them.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use sqlx::Database;
use tokio::sync::OwnedMutexGuard;

use super::{
    backend::{Backend, IdempotencyKey},
    kept::Kept,
    unit::bounded,
};
use crate::{
    error::{Error, Result},
    limits,
    retry::{AttemptStore, shortened},
};

/// The rows of the table `attempts`. Each call is one row of one message; calls of several instances for the same message
/// follow one another.
pub trait AttemptRows: Database {
    /// Errors are appended while there are fewer characters than this.
    const ERRORS_CHARS_MAX: i32 = 32_000;

    /// Counts an attempt (`by` = 1), takes one back (-1) or only notes what it said (0), and returns the count afterwards.
    /// `error` is a JSON string and is appended to those before it.
    fn count_attempt(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
        by: i32,
        error: Option<&str>,
    ) -> impl Future<Output = Result<u32, sqlx::Error>> + Send;

    /// The errors of the attempts: JSON strings separated by commas, oldest first.
    fn attempt_errors(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Forgets the attempts of a message.
    fn forget_attempts(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

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
        let error = error.map(|text| json(&shortened(text, limits::ATTEMPT_ERROR_BYTES_MAX)));
        let _writer = self.writer().await?;
        bounded(async {
            let mut connection = self.kept.acquire().await?;
            Ok(DB::count_attempt(&mut connection, key, by, error.as_deref()).await?)
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

    async fn errors(&self, key: &IdempotencyKey) -> Result<Vec<String>> {
        let errors = bounded(async {
            let mut connection = self.kept.acquire().await?;
            Ok(DB::attempt_errors(&mut connection, key).await?)
        });
        let list = format!("[{}]", errors.await?.unwrap_or_default());
        serde_json::from_str(&list).map_err(|error| Error::from(error).context("reading the table attempts"))
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

/// A text always has a JSON form.
fn json(text: &str) -> String {
    // PostgreSQL's text cannot hold a NUL; JSON writes it as an escape.
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}
