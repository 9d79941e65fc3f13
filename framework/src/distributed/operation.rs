//! A named transaction together with stages that no database can take back: calls of other services.
//!
//! The databases are prepared first, then the stages run, then the databases commit. When a stage fails the databases are rolled back,
//! and what the stages did is undone by their compensations, the last first. That is not atomic: others can see a stage before the
//! commit, and a compensation can fail; then somebody is told.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{
    core::Decision, error::DistributedError, ids::Gid, named::NamedTransactions, unit::DistributedUnitOfWork,
};
use crate::{
    error::{Error, panic_text},
    limits,
};

/// What is written down before a stage runs: found in a transaction that was left lying, it tells that there is something to undo.
pub(super) const STAGE_BEGUN: &str = "external stage begun";

type Call = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A call of another service, and how it is undone.
pub struct ExternalStage {
    name: String,
    action: Call,
    compensation: Option<Call>,
    within: Duration,
}

impl ExternalStage {
    /// A stage that runs once. Give its call a key of its own, so that the other service knows a repetition.
    pub fn new<F>(name: impl Into<String>, action: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self {
            name: name.into(),
            action: Arc::new(move || action().boxed()),
            compensation: None,
            within: limits::DISTRIBUTED_STAGE_WAIT,
        }
    }

    /// How it is undone. Also called when the stage failed or did not answer, so there may be nothing to undo; and up to
    /// [`Settings::retry`](super::Settings::retry) times.
    #[must_use]
    pub fn compensated_by<F>(mut self, compensation: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.compensation = Some(Arc::new(move || compensation().boxed()));
        self
    }

    /// How long it may take, and each try to undo it. Default: 30 s.
    #[must_use]
    pub fn within(mut self, bound: Duration) -> Self {
        self.within = bound;
        self
    }

    async fn call(&self, call: &Call) -> Result<(), Error> {
        // The call is made inside, so that its panic is caught as well.
        let call = Arc::clone(call);
        let answer = AssertUnwindSafe(async move { call().await }).catch_unwind();
        let failed = match tokio::time::timeout(self.within, answer).await {
            Ok(Ok(answer)) => return answer.map_err(|error| error.context(format!("stage {:?}", self.name))),
            Ok(Err(panic)) => format!("panicked: {}", panic_text(panic.as_ref())),
            Err(_) => format!("did not answer within {:?}", self.within),
        };
        Err(Error::new(format!("stage {:?} {failed}", self.name)))
    }
}

impl NamedTransactions {
    /// Does `work` in the branches of `unit`, runs the stages in their order, and commits. When a stage fails or does not answer, the
    /// branches are rolled back and every stage that ran is undone, the last first; a compensation that fails does not keep the
    /// others from running.
    ///
    /// From the first stage on nobody interrupts it by not waiting. A process that dies leaves the transaction prepared under its
    /// name; when it is rolled back for its age, the stages that had begun are reported to the alert hook.
    ///
    /// # Errors
    /// What `work` or the stage says, and what [`Self::begin_distributed`] and [`Self::commit_distributed`] say. After an outcome that
    /// is not known, and after a commit, nothing is undone.
    pub async fn execute_distributed_operation<T, Fut>(
        &self,
        name: &str,
        unit: DistributedUnitOfWork,
        work: impl FnOnce() -> Fut,
        stages: Vec<ExternalStage>,
    ) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        let gid = unit.transaction_id();
        let value = self.begin_distributed(name, unit, work).await?;
        let operation = Operation { transactions: self.clone(), name: name.to_owned(), gid, stages };
        match self.coordinator.0.tasks.spawn(operation.run()).await {
            Ok(ended) => ended.map(|()| value),
            Err(ended) => Err(DistributedError::Panicked { gid, reason: ended.to_string() }.into()),
        }
    }
}

/// An operation whose branches are prepared.
struct Operation {
    transactions: NamedTransactions,
    name: String,
    gid: Gid,
    stages: Vec<ExternalStage>,
}

impl Operation {
    async fn run(self) -> Result<(), Error> {
        let coordinator = &self.transactions.coordinator;
        for (at, stage) in self.stages.iter().enumerate() {
            // Known before it runs: a process that dies in it leaves a trace.
            let ended = match coordinator.0.log.note(self.gid, STAGE_BEGUN, &stage.name).await {
                Ok(()) => stage.call(&stage.action).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = ended {
                self.fail(&error, at + 1).await;
                return Err(error);
            }
            coordinator.note(self.gid, "external stage done", &stage.name).await;
        }
        match self.transactions.commit_distributed(&self.name).await {
            Ok(_) => Ok(()),
            Err(error @ (DistributedError::Denied(_) | DistributedError::AlreadyRolledBack { .. })) => {
                let error = Error::from(error);
                self.fail(&error, self.stages.len()).await;
                Err(error)
            }
            Err(error) => {
                self.alert(&format!("{error}; its external stages were not undone"));
                Err(error.into())
            }
        }
    }

    fn alert(&self, what: &str) {
        self.transactions.coordinator.0.alert(self.gid, &format!("operation {}: {what}", self.name));
    }

    /// Rolls back, and undoes the stages that ran only when it is certain that nothing commits.
    async fn fail(&self, error: &Error, ran: usize) {
        let coordinator = &self.transactions.coordinator;
        let rolled_back = match coordinator.show(self.gid).await {
            Ok(Some(found)) => {
                let why = format!("the operation failed: {error}");
                coordinator.end(&found.transaction, Decision::Abort, &why).await.map(drop)
            }
            Ok(None) => Err(DistributedError::NotFound(self.name.clone())),
            Err(error) => Err(error.into()),
        };
        match rolled_back {
            Ok(()) => self.undo(ran).await,
            Err(instead) => self.alert(&format!(
                "it failed ({error}) and was not rolled back ({instead}): its external stages were not undone"
            )),
        }
    }

    /// Undoes the first `ran` stages, the last of them first.
    async fn undo(&self, ran: usize) {
        let coordinator = &self.transactions.coordinator;
        for stage in self.stages.iter().take(ran).rev() {
            let Some(compensation) = &stage.compensation else { continue };
            let tries = coordinator.0.settings.retry;
            match tries.run(|_: &Error| true, |_| stage.call(compensation)).await {
                Ok(()) => coordinator.note(self.gid, "external stage undone", &stage.name).await,
                Err(error) => {
                    coordinator.note(self.gid, "external stage not undone", &error.to_string()).await;
                    self.alert(&format!("a compensation failed: {error}"));
                }
            }
        }
    }
}
