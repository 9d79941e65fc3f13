//! What carries out a step: its action, its compensation, and what can be found out about them.

use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    ops::Deref,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::core::Answer;
use crate::{
    error::{Disposition, Error, Result},
    limits,
    message::Outgoing,
};

/// Which saga. Made by whoever starts it, so that starting it twice starts it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SagaId(pub Uuid);

impl SagaId {
    /// A new one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// The one that belongs to this text, always the same: `order-4711`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SagaId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One attempt of a step, as its handler gets it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The saga.
    pub saga: SagaId,
    /// The name of the step.
    pub step: Arc<str>,
    /// Which attempt this is, from 1. Those of the action and of the compensation are counted apart.
    pub attempt: u32,
    /// What the saga was started with, as JSON.
    pub data: Arc<str>,
    /// What the steps that were done have returned, by name.
    pub outputs: Arc<BTreeMap<String, Value>>,
}

/// Why an attempt was not done.
#[derive(Debug)]
pub enum Fault {
    /// Nothing of it is there. It counts as an attempt.
    Failed(Error),
    /// Nothing of it is there, and trying again cannot help. A compensation is tried again all the same.
    Permanent(Error),
    /// Nothing of it is there and nothing ever will be: the compensation was there first.
    Refused(Error),
    /// It was not begun: somebody else is at it. It does not count as an attempt.
    Busy(Error),
    /// Nobody knows whether it was done.
    InDoubt(Error),
}

impl Fault {
    /// What an error of the step's own code means before anything was committed: [`Error::permanent`] cannot be mended,
    /// [`Error::later`] is no attempt, everything else is tried again.
    #[must_use]
    pub fn of(error: Error) -> Self {
        match error.disposition() {
            Disposition::DeadLetter => Self::Permanent(error),
            Disposition::Later => Self::Busy(error),
            Disposition::Retry => Self::Failed(error),
        }
    }

    /// For the core, and for people.
    pub(super) fn answer(self) -> (Answer, Error) {
        match self {
            Self::Failed(error) => (Answer::Failed, error),
            Self::Permanent(error) => (Answer::Permanent, error),
            Self::Refused(error) => (Answer::Refused, error),
            Self::Busy(error) => (Answer::Busy, error),
            Self::InDoubt(error) => (Answer::InDoubt, error),
        }
    }
}

/// Carries out a step. [`SqlWork`](super::SqlWork) is the one for databases, [`ExternalWork`](super::ExternalWork) the one for calls
/// of other services.
///
/// Every call has a bound in time and is dropped at it: what was dropped counts as in doubt. Calls for one step of one saga may come
/// twice, and, when a process has lost its lease without noticing, at the same time.
#[async_trait]
pub trait StepHandler: Send + Sync + 'static {
    /// Does it. Returns what it came to, as JSON; for an attempt that was done before, what that came to.
    ///
    /// # Errors
    /// [`Fault`].
    async fn act(&self, call: &Call) -> Result<Value, Fault>;

    /// Undoes it, wherever it stands: done, not done, or nobody knows. After this returned Ok an action that comes late must not be
    /// done any more.
    ///
    /// # Errors
    /// [`Fault`].
    async fn compensate(&self, call: &Call) -> Result<(), Fault>;

    /// Whether the action was done, so that it stays so: what it returned, or `None` when it was not done and never will be.
    ///
    /// # Errors
    /// When nobody can tell.
    async fn settle(&self, call: &Call) -> Result<Option<Value>, Fault>;

    /// Removes what it keeps about a step of a saga that is over.
    ///
    /// # Errors
    /// When it could not; it is tried again later.
    async fn forget(&self, saga: SagaId, step: &str) -> Result<()>;

    /// What it can do.
    fn can(&self) -> Abilities;
}

/// What a handler can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it can be undone.
    pub compensates: bool,
    /// Whether an action that was done is recognised when it is tried again.
    pub recognises: bool,
}

/// A handler whose code takes a `D`.
pub trait Work<D>: StepHandler {}

/// An attempt, for the code of a step. Derefs to what the saga was started with.
pub struct StepContext<D> {
    call: Call,
    data: D,
    undoes: bool,
    /// What it sends, for the outbox of its database.
    sent: Option<Sent>,
}

/// What a step has sent so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent(Arc<Mutex<Vec<Outgoing>>>);

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
impl Sent {
    pub(crate) fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: DeserializeOwned> StepContext<D> {
    pub(crate) fn of(call: &Call, undoes: bool) -> Result<Self> {
        let data = serde_json::from_str(&call.data).map_err(|error| {
            Error::permanent(format!("the data of the saga cannot be read by this definition: {error}"))
        })?;
        Ok(Self { call: call.clone(), data, undoes, sent: None })
    }

    /// Lets it send. What it has sent is in what is returned.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    pub(crate) fn sending(mut self) -> (Self, Sent) {
        let sent = self.sent.get_or_insert_default().clone();
        (self, sent)
    }
}

impl<D> StepContext<D> {
    /// The saga.
    #[must_use]
    pub fn saga(&self) -> SagaId {
        self.call.saga
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// The name of the step.
    #[must_use]
    pub fn step(&self) -> &str {
        &self.call.step
    }

    /// What a step before this one, or this one itself, has returned.
    ///
    /// # Errors
    /// When it has returned nothing of this type, or was not done: the compensation of a step may come without.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        let found = self.call.outputs.get(step);
        let found = found.ok_or_else(|| Error::permanent(format!("step {step:?} has returned nothing")))?;
        T::deserialize(found).map_err(|error| {
            Error::permanent(format!("what step {step:?} has returned is something else: {error}"))
        })
    }

    /// Publishes an event to its subscribers, or sends a message where its route or [`Outgoing::to`] says, through the outbox of the
    /// step's database: its row commits with those of the step.
    ///
    /// # Errors
    /// In a step that is no database's: what it sent could be sent twice or not at all.
    pub fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        let Some(sent) = &self.sent else {
            return Err(Error::permanent(format!(
                "step {:?} has no database and so no outbox: send from a step that has one",
                self.call.step
            )));
        };
        sent.0.lock().unwrap_or_else(PoisonError::into_inner).push(message.into());
        Ok(())
    }

    /// A key for other services, the same in every attempt at this action, and another one for its compensation.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        let what = if self.undoes { "compensation" } else { "action" };
        format!("{}:{}:{what}", self.call.saga, self.call.step)
    }
}

impl<D> Deref for StepContext<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.data
    }
}

impl<D> fmt::Debug for StepContext<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("call", &self.call)
            .field("undoes", &self.undoes)
            .finish_non_exhaustive()
    }
}

/// What a step returns, as JSON of a size that is kept.
pub(crate) fn encoded(step: &str, output: &impl Serialize) -> Result<Value> {
    let value = serde_json::to_value(output)
        .map_err(|error| Error::permanent(format!("what step {step:?} returns is not JSON: {error}")))?;
    let bytes = value.to_string().len();
    match bytes <= limits::ORCHESTRATION_DATA_BYTES_MAX {
        true => Ok(value),
        false => Err(Error::permanent(format!(
            "what step {step:?} returns has {bytes} bytes, at most {} are kept: return an id",
            limits::ORCHESTRATION_DATA_BYTES_MAX
        ))),
    }
}

/// The type that the code of a handler takes, for handlers that have no field of it.
pub(crate) type Takes<D> = PhantomData<fn(D)>;
