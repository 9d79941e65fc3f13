//! Recovery beside the worker of a bus.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use crate::{background::Background, bus::BusCore, error::Result};

#[async_trait]
impl Background for Coordinator {
    fn name(&self) -> &'static str {
        "recovery of distributed transactions"
    }

    async fn run(&self, _: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        self.recover_until(stop.clone()).await;
        Ok(())
    }
}
