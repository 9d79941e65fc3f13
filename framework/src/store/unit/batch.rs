//! SQL units of work for several messages.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::{SqlUnit, bounded};
use crate::{
    error::{Error, Result},
    limits,
    store::{
        backend::{Backend, IdempotencyKey, Recorded, Verdict},
        connection::UnitConnection,
        kept::Kept,
        statement::Writes,
    },
    unit_of_work::{Batches, BegunBatch},
};

pub(super) struct SqlBatches<DB: Backend>(pub(super) Arc<Kept<DB>>);

#[async_trait]
impl<DB: Backend> Batches for SqlBatches<DB> {
    async fn begin(&self, keys: &[IdempotencyKey]) -> Result<BegunBatch> {
        let (unit, recorded) = SqlUnit::open_batch(&self.0, keys).await?;
        Ok(BegunBatch { unit: Box::new(unit), recorded })
    }

    async fn count_first(&self, keys: &[IdempotencyKey]) -> Result<Vec<bool>> {
        let _writer = self.writer().await?;
        bounded(async {
            let counted = DB::count_first(&mut *self.0.acquire().await?, keys).await?;
            Ok(keys.iter().map(|key| counted.contains(&key.message_id)).collect())
        })
        .await
    }

    async fn take_back(&self, keys: &[IdempotencyKey]) -> Result<()> {
        let _writer = self.writer().await?;
        bounded(async { Ok(DB::take_back_first(&mut *self.0.acquire().await?, keys).await?) }).await
    }
}

impl<DB: Backend> SqlBatches<DB> {
    /// The right to write, where there is one; for a bounded time.
    async fn writer(&self) -> Result<Option<OwnedMutexGuard<()>>> {
        let writer = tokio::time::timeout(limits::CALL_TIMEOUT, DB::writer(self.0.pool())).await;
        writer.map_err(|_| Error::new("somebody else keeps writing to the database"))
    }
}

impl<DB: Backend> SqlUnit<DB> {
    /// One transaction for several messages. It commits and is resolved with the first record that is its own: all of them are
    /// in the same transaction.
    async fn open_batch(kept: &Arc<Kept<DB>>, keys: &[IdempotencyKey]) -> Result<(Self, Vec<Recorded>)> {
        let writer = DB::writer(kept.pool()).await;
        let (connection, reused) = kept.take().await?;
        let mut unit = Self {
            connection: UnitConnection::hold(connection),
            key: None,
            mark: None,
            reads: Vec::new(),
            writes: Writes::default(),
            kept: Arc::clone(kept),
            writer,
        };
        let begun = async {
            match unit.connection.open_batch(keys).await {
                // A connection that nobody tested since its last use may have died meanwhile; nothing was begun on it.
                Err(error) if reused && DB::verdict(&error) == Verdict::Unknown => {
                    unit.connection.replace(kept.acquire().await?);
                    Ok(unit.connection.open_batch(keys).await?)
                }
                answer => Ok(answer?),
            }
        };
        let recorded = bounded(begun).await.map_err(|error| error.context("the batch cannot begin"))?;
        let fresh = keys.iter().zip(&recorded).find(|(_, recorded)| **recorded == Recorded::Fresh);
        unit.key = fresh.map(|(key, _)| key.clone());
        Ok((unit, recorded))
    }
}
