//! Declaring an orchestrated saga: its steps in their order, how each is undone, and where there is no way back any more.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    core::{Plan, Rules},
    error::OrchestrationError,
    handler::{SagaId, StepHandler, Takes, Work},
    log::NewSaga,
};
use crate::{limits, retry::RetryPolicy};

/// One step of a definition.
#[must_use = "a step does nothing until it is given to a definition"]
pub struct Step<D> {
    pub(super) declared: Declared,
    takes: Takes<D>,
}

/// What is said about a step.
#[derive(Clone)]
pub(super) struct Declared {
    pub(super) name: Arc<str>,
    pub(super) handler: Arc<dyn StepHandler>,
    pub(super) timeout: Duration,
    action: RetryPolicy,
    compensation: RetryPolicy,
}

impl<D> Step<D> {
    /// A step that `work` carries out. The name is kept with every saga and in the markers: keep it stable.
    pub fn new(name: impl Into<String>, work: impl Work<D>) -> Self {
        let declared = Declared {
            name: name.into().into(),
            handler: Arc::new(work),
            timeout: limits::ORCHESTRATION_STEP_WAIT,
            action: RetryPolicy::default(),
            compensation: RetryPolicy::default(),
        };
        Self { declared, takes: PhantomData }
    }

    /// How long one attempt may take, of the action or of the compensation. After it nobody knows what came of it. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.declared.timeout = timeout;
        self
    }

    /// How often the action is tried, and with which pauses. Default: that of messages, 10 attempts over 30 to 62 s.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.declared.action = policy;
        self
    }

    /// The same for the compensation, which is counted apart. When they are used up a human has to look. Default: the same.
    pub fn retry_compensation(mut self, policy: RetryPolicy) -> Self {
        self.declared.compensation = policy;
        self
    }
}

/// A saga that can be started. Give it to [`OrchestratorBuilder::saga`](super::OrchestratorBuilder::saga).
#[must_use = "a saga does nothing until it is given to an orchestrator"]
pub struct SagaDefinition<D> {
    name: String,
    version: u32,
    steps: Vec<Declared>,
    pivot: Option<usize>,
    deadline: Option<Duration>,
    takes: Takes<D>,
}

/// A definition that was checked, without its type.
pub(super) struct Defined {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) steps: Vec<Declared>,
    pub(super) plan: Plan,
}

impl<D> SagaDefinition<D> {
    /// A saga `name` whose steps are those of this version. Sagas that are under way keep the version that they were started with:
    /// raise it when steps are added, removed, renamed or put into another order, and give the orchestrator both versions until the
    /// old ones are over.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        let name = name.into();
        Self { name, version, steps: Vec::new(), pivot: None, deadline: None, takes: PhantomData }
    }

    /// The next step. Before the pivot, work without a way to undo it is left as it is when the saga goes back: it should have no
    /// effect that somebody minds.
    pub fn step(mut self, step: Step<D>) -> Self {
        self.steps.push(step.declared);
        self
    }

    /// The step that decides: when it is done there is no way back, and the steps after it are tried until they are done or a human
    /// does them.
    pub fn pivot(mut self, step: Step<D>) -> Self {
        self.pivot.get_or_insert(self.steps.len());
        self.step(step)
    }

    /// How long a saga may take until its pivot, by the clock of the database that keeps it. After it, it goes back. Default: as
    /// long as it takes.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(super) fn check(&self) -> Result<Defined, OrchestrationError> {
        let bad = |why: String| OrchestrationError::Definition { saga: self.name.clone(), why };
        let fits = |name: &str| {
            (1..=limits::NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        let names = || self.steps.iter().map(|step| &*step.name);
        if let Some(name) = std::iter::once(&*self.name).chain(names()).find(|name| !fits(name)) {
            let max = limits::NAME_BYTES_MAX;
            return Err(bad(format!(
                "the name {name:?} must have 1 to {max} bytes, none of them a control character"
            )));
        }
        if !(1..=limits::ORCHESTRATION_STEPS_MAX).contains(&self.steps.len()) {
            return Err(bad(format!(
                "it has {} steps, and can have 1 to {}",
                self.steps.len(),
                limits::ORCHESTRATION_STEPS_MAX
            )));
        }
        for (at, step) in self.steps.iter().enumerate() {
            if names().take(at).any(|name| *name == *step.name) {
                return Err(bad(format!("two steps are called {:?}: their markers would be one", step.name)));
            }
            if self.pivot.is_some_and(|pivot| at >= pivot) && step.handler.can().compensates {
                return Err(bad(format!(
                    "step {:?} is the pivot or comes after it, and has a compensation, which would never run",
                    step.name
                )));
            }
            if step.action.attempts_max == 0 || step.compensation.attempts_max == 0 || step.timeout.is_zero()
            {
                return Err(bad(format!("step {:?} needs one attempt at least, and time for it", step.name)));
            }
        }
        let rules = |step: &Declared| Rules {
            compensates: step.handler.can().compensates,
            retries_doubt: step.handler.can().recognises,
            action: step.action.clone(),
            compensation: step.compensation.clone(),
        };
        Ok(Defined {
            name: self.name.clone(),
            version: self.version,
            steps: self.steps.clone(),
            plan: Plan { steps: self.steps.iter().map(rules).collect(), pivot: self.pivot },
        })
    }
}

impl<D: Serialize> SagaDefinition<D> {
    /// A saga to be started: give it to [`Orchestrator::start`](super::Orchestrator::start), or to
    /// [`SqlSagaLog::start_in`](super::SqlSagaLog::start_in) in the transaction of a handler. What comes with an id that was used
    /// before starts nothing.
    ///
    /// # Errors
    /// When `data` is not JSON or too large.
    pub fn instance(&self, id: SagaId, data: &D) -> Result<NewSaga, OrchestrationError> {
        let bad = |why: String| OrchestrationError::Definition { saga: self.name.clone(), why };
        let data =
            serde_json::to_string(data).map_err(|error| bad(format!("its data is not JSON: {error}")))?;
        if data.len() > limits::ORCHESTRATION_DATA_BYTES_MAX {
            let max = limits::ORCHESTRATION_DATA_BYTES_MAX;
            return Err(bad(format!("its data has {} bytes, at most {max} are kept", data.len())));
        }
        let steps = self.steps.iter().map(|step| step.name.to_string()).collect();
        let (name, version, deadline) = (self.name.clone(), self.version, self.deadline);
        Ok(NewSaga { id, name, version, data, steps, deadline })
    }
}
