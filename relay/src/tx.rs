//! Distributed transactions whose home is a source: who coordinates them for an operator, and the databases that take part.
//!
//! Called by the command line only. A relay that runs knows nothing of them: recovery belongs to the processes of the application.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DistributedError, Finding, Health, Part, Resource,
        ResourceId, RmError, Settings, TransactionDetail, core::Decision, examine,
    },
    limits,
    store::{
        AnyPool,
        distributed::any::{decision_log, event_store, resource},
    },
};

use crate::{
    config::{Config, SourceConfig},
    setup::{self, SetupError},
};

/// A decision log, and the databases that take part in what is looked at.
pub struct Transactions {
    /// Decides and looks.
    pub coordinator: Coordinator,
    source: String,
    home: AnyPool,
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
    /// A database that takes part is not in the configuration. Nothing was done.
    #[error(
        "branch {branch:?} is on resource {resource}, which the configuration does not have: add [resource.{resource}] with its url"
    )]
    NoResource {
        /// The branch.
        branch: String,
        /// Its resource.
        resource: String,
    },
    /// A branch that is no database's. Nothing was done.
    #[error(
        "branch {branch:?} is a participant of the application's own ({resource_type}): only recovery in the application can end it"
    )]
    NotOurs {
        /// The branch.
        branch: String,
        /// What the log says that it is.
        resource_type: String,
    },
}

/// What to do about databases that the configuration does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Refuse: what is done by hand is done everywhere.
    Refuse,
    /// Go on without them.
    Pass,
}

impl Transactions {
    /// Opens the home database.
    ///
    /// # Errors
    /// When it cannot be opened or has no log.
    pub async fn open(name: &str, source: &SourceConfig) -> Result<Self, OpenError> {
        Self::with(name.to_owned(), setup::database(name, source).await?, Vec::new()).await
    }

    async fn with(
        source: String,
        home: AnyPool,
        resources: Vec<Arc<dyn Resource>>,
    ) -> Result<Self, OpenError> {
        let coordinator = Coordinator::connect(decision_log(&home), resources.clone(), Settings::default());
        match coordinator.await {
            Ok(coordinator) => Ok(Self { coordinator, source, home, resources }),
            Err(cause) => Err(OpenError::Log { source_name: source, cause }),
        }
    }

    /// Opens the databases that take part in a transaction. What is left in one that cannot be reached is left to recovery.
    ///
    /// # Errors
    /// When one is not in the configuration, unless that is passed over, or is none.
    pub async fn of(
        self,
        config: &Config,
        found: &TransactionDetail,
        missing: Missing,
    ) -> Result<Self, OpenError> {
        let mut resources: Vec<Arc<dyn Resource>> = Vec::new();
        for branch in &found.branches {
            let (name, id) = (&branch.resource, ResourceId::new(&branch.resource));
            let known = config.resource.get(name).zip(id.ok());
            match known {
                None if missing == Missing::Pass => {}
                None => {
                    let (branch, resource) = (branch.name.clone(), name.clone());
                    return Err(OpenError::NoResource { branch, resource });
                }
                Some(_) if resources.iter().any(|known| known.id().as_str() == name) => {}
                Some((config, id)) => {
                    let make: fn(ResourceId, &AnyPool) -> Arc<dyn Resource> =
                        match branch.resource_type.as_str() {
                            "event_store" => event_store,
                            "postgres" | "mysql" | "sqlite" | "unit_of_work" => resource,
                            _ if missing == Missing::Pass => continue,
                            other => {
                                let (branch, resource_type) = (branch.name.clone(), other.to_owned());
                                return Err(OpenError::NotOurs { branch, resource_type });
                            }
                        };
                    resources.push(match setup::resource(name, config).await {
                        Ok(pool) => make(id, &pool),
                        Err(error) => Arc::new(Away { id, why: error.to_string() }),
                    });
                }
            }
        }
        Self::with(self.source, self.home, resources).await
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
    for (name, resource) in &config.resource {
        let found = match setup::resource(name, resource).await {
            Ok(pool) => Ok(examine(&pool, Part::Branch).await),
            Err(error) => Err(error),
        };
        all.push(Examined { section: format!("[resource.{name}]"), part: Part::Branch, found });
    }
    all
}
