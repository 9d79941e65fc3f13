//! Distributed transactions whose home is a source: who coordinates them for an operator, and the databases that take part.
//!
//! Called by the command line only. A relay that runs knows nothing of them: recovery belongs to the processes of the application.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DistributedError, Finding, Health, Part, Resource,
        ResourceId, RmError, Settings, core::Decision, examine,
    },
    limits,
    store::distributed::any::{decision_log, resource},
};

use crate::{
    config::{Config, SourceConfig},
    setup::{self, SetupError},
};

/// A home, and the databases that take part.
pub struct Transactions {
    /// Decides and looks.
    pub coordinator: Coordinator,
    resources: Vec<Arc<dyn Resource>>,
}

/// Why the transactions of a source cannot be worked with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The home database cannot be opened.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It can, and has no log that answers.
    #[error("[source.{source_name}]: {cause}")]
    Log {
        /// The source.
        source_name: String,
        /// Why.
        #[source]
        cause: DistributedError,
    },
}

impl Transactions {
    /// Opens the home database and those that take part.
    ///
    /// # Errors
    /// When the home cannot be opened. Another database that cannot is left to recovery.
    pub async fn open(config: &Config, name: &str, source: &SourceConfig) -> Result<Self, OpenError> {
        let mut resources: Vec<Arc<dyn Resource>> = Vec::new();
        for (name, id) in ids(config) {
            resources.push(match setup::resource(&name, &config.resource[&name]).await {
                Ok(pool) => resource(id, &pool),
                Err(error) => Arc::new(Away { id, why: error.to_string() }),
            });
        }
        Self::with(name, source, resources).await
    }

    /// Opens the home database alone, to look at the log.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn log_of(name: &str, source: &SourceConfig) -> Result<Self, OpenError> {
        Self::with(name, source, Vec::new()).await
    }

    async fn with(
        name: &str,
        source: &SourceConfig,
        resources: Vec<Arc<dyn Resource>>,
    ) -> Result<Self, OpenError> {
        let home = setup::database(name, source).await?;
        let coordinator = Coordinator::connect(decision_log(&home), resources.clone(), Settings::default());
        let coordinator =
            coordinator.await.map_err(|cause| OpenError::Log { source_name: name.to_owned(), cause })?;
        Ok(Self { coordinator, resources })
    }

    /// Whether the configuration has it.
    #[must_use]
    pub fn knows(&self, resource: &str) -> bool {
        self.resources.iter().any(|known| known.id().as_str() == resource)
    }

    /// Whether a branch is prepared now, by what its database says. `None`: the database is not known here, or did not answer.
    pub async fn is_prepared(&self, branch: &BranchId, resource: &str) -> Option<bool> {
        let resource = self.resources.iter().find(|known| known.id().as_str() == resource)?;
        let look = resource.prepared(self.coordinator.id());
        let prepared = tokio::time::timeout(limits::CALL_TIMEOUT, look).await.ok()?.ok()?;
        Some(prepared.contains(branch))
    }
}

/// A database that cannot be reached: what is left there is done later.
struct Away {
    id: ResourceId,
    why: String,
}

impl Away {
    fn later<T>(&self) -> Result<T, RmError> {
        Err(RmError::Retryable(self.why.clone()))
    }
}

#[async_trait]
impl Resource for Away {
    fn id(&self) -> &ResourceId {
        &self.id
    }

    async fn prepared(&self, _: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        self.later()
    }

    async fn finish(&self, _: &BranchId, _: Decision) -> Result<Ack, RmError> {
        self.later()
    }

    async fn forget(&self, _: &BranchId) -> Result<(), RmError> {
        self.later()
    }

    async fn health(&self) -> Health {
        Health { healthy: false, detail: self.why.clone(), latency: Duration::ZERO }
    }
}

fn ids(config: &Config) -> impl Iterator<Item = (String, ResourceId)> + '_ {
    // Checked when the configuration was read.
    config.resource.keys().filter_map(|name| Some((name.clone(), ResourceId::new(name).ok()?)))
}

/// What was found in one of the databases.
pub struct Examined {
    /// `[source.orders]`, `[resource.stock]`.
    pub section: String,
    /// What it is to a transaction.
    pub part: Part,
    /// What was looked at, or why it could not be.
    pub found: Result<Vec<Finding>, SetupError>,
}

/// Looks at the home database and at those that take part.
pub async fn check(config: &Config, name: &str, source: &SourceConfig) -> Vec<Examined> {
    let mut all = Vec::new();
    let home = match setup::unchecked(name, source).await {
        Ok(pool) => Ok(examine(&pool, Part::Home).await),
        Err(error) => Err(error),
    };
    all.push(Examined { section: format!("[source.{name}]"), part: Part::Home, found: home });
    for (name, _) in ids(config) {
        let found = match setup::resource(&name, &config.resource[&name]).await {
            Ok(pool) => Ok(examine(&pool, Part::Branch).await),
            Err(error) => Err(error),
        };
        all.push(Examined { section: format!("[resource.{name}]"), part: Part::Branch, found });
    }
    all
}
