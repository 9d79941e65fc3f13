//! The unit of work: what begins before the handlers of a message and ends, once, after them.
//!
//! The pipeline opens one per message and shows it to the handlers through their [`Context`](crate::Context). Handlers
//! use it and cannot end it. [`SqlUnitOfWork`](crate::store::SqlUnitOfWork) is the one for databases; anything else with a
//! commit and a rollback can be one through [`HandWritten`].

use std::{any::Any, future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;

use crate::{
    background::Background,
    error::{Error, Result},
    incoming::Incoming,
    retry::AttemptStore,
    schedule::ScheduleStore,
    store::{
        idempotency::RecordStore,
        results::ResultStore,
        saga::SagaStore,
        statement::{Opening, Writes},
    },
    transaction::TransactionContext,
};

mod batches;
pub use batches::{Batches, BegunBatch};

/// One begun unit of work.
///
/// Exactly one of `commit` and `rollback` ends it, then `close` follows. Dropping a unit that was not ended must leave
/// nothing open.
#[async_trait]
pub trait Unit: Any + Send {
    /// Takes what commits with this unit besides the handlers' own work: outbox rows above all. Called at most once, right
    /// before `commit`.
    ///
    /// # Errors
    /// When this kind of unit has no tables for it (the default).
    fn stage(&mut self, writes: Writes) -> Result<()> {
        if writes.is_empty() { Ok(()) } else { Err(Error::new("this unit of work has no outbox")) }
    }

    /// Why this unit can no longer commit, as far as it knows without asking anybody.
    fn doomed(&self) -> Option<Error> {
        None
    }

    /// The unit that holds the transaction of the message, when this one is a wrapper around it.
    fn home(&mut self) -> Option<&mut dyn Unit> {
        None
    }

    /// Called once, before the handlers: what they are to reach besides the unit goes into the context of their message.
    fn show(&self, _: &TransactionContext) {}

    /// Makes everything durable, together with the staged rows.
    ///
    /// # Errors
    /// [`CommitError::Failed`] when nothing was committed for certain, [`CommitError::Unknown`] when nobody knows.
    async fn commit(&mut self) -> Result<(), CommitError>;

    /// Undoes everything.
    ///
    /// # Errors
    /// When the undoing failed; it is reported, and the message is delivered again all the same.
    async fn rollback(&mut self) -> Result<()>;

    /// Gives back what the unit held. Called once, after its end.
    ///
    /// # Errors
    /// When something could not be given back; it is reported and changes nothing.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Why a unit of work did not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Nothing was committed. Counts as an attempt; the message is delivered again.
    #[error("the unit of work did not commit: {0}")]
    Failed(Error),
    /// The answer to COMMIT never came and could not be found out. The message is delivered again without counting;
    /// with idempotency the repeat finds out, without it the handler may run twice.
    #[error("nobody knows whether the unit of work committed: {0}")]
    Unknown(Error),
}

/// What beginning a unit of work found.
pub enum Begun {
    /// A fresh unit; the idempotency record, if one was asked for, is in it.
    Fresh(Box<dyn Unit>),
    /// The message was handled before; the unit is open all the same, for `DuplicatePolicy::Invoke`.
    Duplicate(Box<dyn Unit>),
    /// Another delivery of the message is being handled right now: try again later, this was no attempt.
    InProgress,
}

/// What a kind of unit of work can do for a bus.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// The database, as it appears in messages; `None` when it is not SQL and so has no outbox and no idempotency.
    pub database: Option<&'static str>,
    /// The type of the connection that handlers may ask for, with its name for messages.
    pub connection: Option<(std::any::TypeId, &'static str)>,
    /// Where attempts are kept; `None` keeps them in memory.
    pub attempts: Option<Arc<dyn AttemptStore>>,
    /// Stored replies and retention.
    pub(crate) records: Option<Arc<dyn RecordStore>>,
    /// What became of messages that somebody polls for.
    pub(crate) results: Option<Arc<dyn ResultStore>>,
    /// Where sagas are kept; `None` when it has no place for them.
    pub(crate) sagas: Option<Arc<dyn SagaStore>>,
    /// Where scheduled messages are kept.
    pub(crate) schedule: Option<Arc<dyn ScheduleStore>>,
    /// The other databases that handlers may ask for.
    #[cfg_attr(not(any(feature = "postgres", feature = "mysql")), allow(dead_code))]
    pub(crate) branches: Vec<BranchOf>,
    /// What runs while the bus runs.
    pub(crate) background: Option<Arc<dyn Background>>,
}

/// A database that takes part in units of work beside the home of them.
#[derive(Clone)]
#[cfg_attr(not(any(feature = "postgres", feature = "mysql")), allow(dead_code))]
pub(crate) struct BranchOf {
    /// As handlers call it.
    pub(crate) name: String,
    /// The type of its connections.
    pub(crate) connection: std::any::TypeId,
}

/// Begins units of work. Given to [`BusBuilder::unit_of_work`](crate::BusBuilder::unit_of_work).
#[async_trait]
pub trait UnitOfWork: Send + Sync + 'static {
    /// Begins one for `message`. With a key in the opening, the idempotency record is its first write.
    ///
    /// # Errors
    /// When it cannot begin; counts as an attempt.
    async fn begin(&self, message: &Incoming, opening: &Opening) -> Result<Begun>;

    /// Whether it can begin at all; asked once, when the bus starts.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// What it can do.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// How it begins units for several messages; `None` when it cannot.
    fn batches(&self) -> Option<Arc<dyn Batches>> {
        None
    }

    /// What the code says about commit timing; the bus's configuration overrides it. `None` was not said.
    fn commit_with_transaction(&self) -> Option<bool> {
        None
    }
}

/// A unit of work that is not SQL: made by a factory that sees the message.
///
/// ```
/// use barid::{HandWritten, Result, unit_of_work::{CommitError, Unit}};
///
/// struct Draft { path: std::path::PathBuf }
///
/// #[async_trait::async_trait]
/// impl Unit for Draft {
///     async fn commit(&mut self) -> Result<(), CommitError> {
///         tokio::fs::rename(&self.path, self.path.with_extension("final")).await
///             .map_err(|cause| CommitError::Failed(cause.into()))
///     }
///     async fn rollback(&mut self) -> Result<()> {
///         Ok(tokio::fs::remove_file(&self.path).await?)
///     }
/// }
///
/// let unit = HandWritten::new(async |message| {
///     Ok(Draft { path: std::env::temp_dir().join(message.id.to_string()) })
/// }).commit_with_transaction(true);
/// # let _ = unit;
/// ```
pub struct HandWritten<F, U> {
    factory: F,
    commit_with_transaction: Option<bool>,
    unit: PhantomData<fn() -> U>,
}

impl<F, Fut, U> HandWritten<F, U>
where
    F: Fn(Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<U>> + Send + 'static,
    U: Unit,
{
    /// Units made by `factory`, which is called with each message before its handlers run.
    #[must_use]
    pub fn new(factory: F) -> Self {
        Self { factory, commit_with_transaction: None, unit: PhantomData }
    }

    /// When it commits; see the table in the crate's documentation. Default: `false`.
    #[must_use]
    pub fn commit_with_transaction(mut self, yes: bool) -> Self {
        self.commit_with_transaction = Some(yes);
        self
    }
}

#[async_trait]
impl<F, Fut, U> UnitOfWork for HandWritten<F, U>
where
    F: Fn(Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<U>> + Send + 'static,
    U: Unit,
{
    async fn begin(&self, message: &Incoming, _: &Opening) -> Result<Begun> {
        Ok(Begun::Fresh(Box::new((self.factory)(message.clone()).await?)))
    }

    fn commit_with_transaction(&self) -> Option<bool> {
        self.commit_with_transaction
    }
}
