//! Removes the tombstones of sagas that were completed long ago, in bounded batches.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    background::Background,
    bus::BusCore,
    error::Result,
    limits::{SAGA_RETENTION_BATCH_ROWS, SAGA_RETENTION_EVERY},
    store::saga::SagaStore,
};

pub(crate) struct Retention {
    pub(crate) store: Arc<dyn SagaStore>,
    pub(crate) keep_for: Duration,
}

#[async_trait]
impl Background for Retention {
    fn name(&self) -> &'static str {
        "saga retention"
    }

    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        loop {
            let removed = self.store.purge(self.keep_for, SAGA_RETENTION_BATCH_ROWS).await?;
            if removed > 0 {
                tracing::debug!(bus = core.name, removed, "removed the tombstones of completed sagas");
            }
            // A full batch: there may be more. Others get their turn in between.
            let full = removed >= SAGA_RETENTION_BATCH_ROWS.into();
            let pause = if full { Duration::from_millis(10) } else { SAGA_RETENTION_EVERY };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
