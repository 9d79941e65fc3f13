//! Whether transactions can be made now: the log and every database that takes part, asked at once.

use std::{collections::BTreeMap, time::Instant};

use futures::future::join_all;

use super::{coordinator::Coordinator, ids::ResourceId, participant::Health};
use crate::limits;

/// How a coordinator and everything behind it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoordinatorHealth {
    /// The decision log.
    pub log: Health,
    /// Each database that takes part.
    pub resources: BTreeMap<ResourceId, Health>,
}

impl CoordinatorHealth {
    /// Whether a transaction over all of them could be made now.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.log.healthy && self.resources.values().all(|health| health.healthy)
    }
}

impl Coordinator {
    /// Asks the log and every database. Takes as long as the slowest answer, at most [`limits::CALL_TIMEOUT`]; who does not answer by
    /// then is not healthy.
    pub async fn health(&self) -> CoordinatorHealth {
        let late = || Health {
            healthy: false,
            detail: "no answer in time".to_owned(),
            latency: limits::CALL_TIMEOUT,
        };
        let resources = self.0.resources.iter().map(|(id, resource)| async move {
            (id.clone(), tokio::time::timeout(limits::CALL_TIMEOUT, resource.health()).await)
        });
        let log = tokio::time::timeout(limits::CALL_TIMEOUT, async {
            let asked = Instant::now();
            let found = self.0.log.figures().await;
            let detail = match &found {
                Ok(figures) => format!("{} open, {} in doubt", figures.open, figures.in_doubt),
                Err(error) => error.to_string(),
            };
            Health { healthy: found.is_ok(), detail, latency: asked.elapsed() }
        });
        let (log, resources) = futures::future::join(log, join_all(resources)).await;
        let resources = resources.into_iter().map(|(id, health)| (id, health.unwrap_or_else(|_| late())));
        CoordinatorHealth { log: log.unwrap_or_else(|_| late()), resources: resources.collect() }
    }
}
