//! What a handler may ask for.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMappedMutexGuard, OwnedMutexGuard};
use uuid::Uuid;

use crate::{
    batch::Seat,
    bus::BusCore,
    error::{Error, Result},
    handler::Attempted,
    headers::Headers,
    incoming::Incoming,
    message::Outgoing,
    store::{backend::Backend, connection::UnitConnection, statement::Statement, unit::SqlUnit},
    transaction::TransactionContext,
    unit_of_work::Unit,
};

#[cfg(any(feature = "postgres", feature = "mysql"))]
mod branches;
mod deferring;
mod events;
pub(crate) mod replying;
mod sending;

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use branches::Branch;
pub use events::UnitEvents;

pub(crate) type UnitSlot = Option<Box<dyn Unit>>;

/// The handler's view of its message: the unit of work, sending, headers and the transaction context.
///
/// Cheap to clone. A handler owns its context; keeping one longer than the handler runs is harmless, everything on it is an
/// error then.
#[derive(Clone)]
pub struct Context(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) core: Arc<BusCore>,
    pub(crate) incoming: Incoming,
    pub(crate) transaction: TransactionContext,
    pub(crate) unit: Arc<AsyncMutex<UnitSlot>>,
    /// Its place in a batch.
    pub(crate) seat: Option<Arc<Seat>>,
    /// What the handlers sent, in order; `None` once the context is completed.
    staged: Mutex<Option<Vec<Outgoing>>>,
    /// What the handlers cancelled.
    cancelled: Mutex<Vec<Uuid>>,
    /// What the closing text of the unit of work writes besides the outbox.
    writes: Mutex<Vec<Statement>>,
    /// The saga whose handler runs.
    saga: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    /// Set by the retry step before the handlers run.
    pub(crate) attempt: std::sync::atomic::AtomicU32,
    /// Set by the idempotency step.
    pub(crate) duplicate: std::sync::atomic::AtomicBool,
    /// What became of the attempts, when the message is handled on the second level.
    attempted: Option<Attempted>,
}

impl Context {
    pub(crate) fn new(core: Arc<BusCore>, incoming: Incoming) -> Self {
        Self::made(core, incoming, None, None)
    }

    /// The context of a message with a place in a batch, whose unit of work it shares.
    pub(crate) fn seated(core: Arc<BusCore>, incoming: Incoming, seat: Option<Arc<Seat>>) -> Self {
        Self::made(core, incoming, seat, None)
    }

    /// The context of a message whose attempts are used up.
    pub(crate) fn second_level(core: Arc<BusCore>, incoming: Incoming, attempted: Attempted) -> Self {
        Self::made(core, incoming, None, Some(attempted))
    }

    fn made(
        core: Arc<BusCore>,
        incoming: Incoming,
        seat: Option<Arc<Seat>>,
        attempted: Option<Attempted>,
    ) -> Self {
        let unit = seat.as_ref().map_or_else(Arc::default, |seat| Arc::clone(&seat.slot));
        let attempt = attempted.as_ref().map_or(1, |attempted| attempted.attempts);
        Self(Arc::new(Inner {
            core,
            incoming,
            transaction: TransactionContext::new(),
            unit,
            seat,
            staged: Mutex::new(Some(Vec::new())),
            cancelled: Mutex::default(),
            writes: Mutex::new(Vec::new()),
            saga: Mutex::new(None),
            attempt: attempt.into(),
            duplicate: false.into(),
            attempted,
        }))
    }

    /// The connection inside the unit of work. Bind it before use: `let mut db = cx.unit_of_work::<Postgres>().await?;`.
    ///
    /// # Errors
    /// When the bus has no unit of work on this database, when another guard is alive (drop it first), or when the unit
    /// has ended.
    pub async fn unit_of_work<DB: Backend>(&self) -> Result<UnitGuard<DB>> {
        self.guard::<DB>()
    }

    pub(crate) fn guard<DB: Backend>(&self) -> Result<UnitGuard<DB>> {
        let slot = self.slot()?;
        OwnedMutexGuard::try_map(slot, |slot| {
            SqlUnit::<DB>::of(slot.as_deref_mut()?).map(|unit| &mut unit.connection)
        })
        .map(UnitGuard)
        .map_err(|slot| {
            Error::permanent(if slot.is_some() {
                format!("the unit of work of bus {:?} is not on {}", self.0.core.name, DB::DISPLAY)
            } else {
                format!("bus {:?} has no unit of work, or it has ended", self.0.core.name)
            })
        })
    }

    /// The hand-written unit of work of this type.
    ///
    /// # Errors
    /// As [`Context::unit_of_work`].
    pub async fn unit<U: Unit>(&self) -> Result<OwnedMappedMutexGuard<Option<Box<dyn Unit>>, U>> {
        OwnedMutexGuard::try_map(self.slot()?, |slot| {
            let unit: &mut dyn Any = slot.as_deref_mut()?;
            unit.downcast_mut::<U>()
        })
        .map_err(|_| {
            Error::permanent(format!(
                "bus {:?} has no unit of work of type {}, or it has ended",
                self.0.core.name,
                std::any::type_name::<U>()
            ))
        })
    }

    fn slot(&self) -> Result<OwnedMutexGuard<UnitSlot>> {
        Arc::clone(&self.0.unit).try_lock_owned().map_err(|_| {
            Error::new(
                "a guard of this message's unit of work is alive already: drop it before taking another",
            )
        })
    }

    /// Adds a statement to the closing text of the unit of work, before the outbox rows. For what Barid itself keeps in the
    /// message's transaction; until the end of the before-commit stage.
    pub(crate) fn write(&self, statement: Statement) {
        self.0.writes.lock().unwrap_or_else(PoisonError::into_inner).push(statement);
    }

    pub(crate) fn take_writes(&self) -> Vec<Statement> {
        std::mem::take(&mut *self.0.writes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says whose handler runs. Handlers of one message run one after the other.
    pub(crate) fn enter_saga(&self, saga: Option<Arc<dyn Any + Send + Sync>>) {
        *self.0.saga.lock().unwrap_or_else(PoisonError::into_inner) = saga;
    }

    pub(crate) fn current_saga(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.saga.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Actions around the commit, and values that are kept with the message.
    #[must_use]
    pub fn transaction(&self) -> &TransactionContext {
        &self.0.transaction
    }

    /// The message's id.
    #[must_use]
    pub fn message_id(&self) -> Uuid {
        self.0.incoming.id
    }

    /// The message as it arrived.
    #[must_use]
    pub fn incoming(&self) -> &Incoming {
        &self.0.incoming
    }

    /// The headers, with `barid-duplicate: true` when the message was handled before.
    #[must_use]
    pub fn headers(&self) -> Headers {
        let mut all = self.0.incoming.headers.clone();
        if self.is_duplicate() {
            all.set(crate::headers::DUPLICATE, "true");
        }
        all
    }

    /// Which attempt this is, from 1. Exact when the delivery may be a repeat, 1 otherwise.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether the message was handled before (only ever true with `DuplicatePolicy::Invoke`).
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.0.duplicate.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What became of the attempts, for handlers of [`Failed`](crate::Failed) messages.
    pub(crate) fn attempted(&self) -> Option<&Attempted> {
        self.0.attempted.as_ref()
    }

    /// The name of the bus.
    #[must_use]
    pub fn bus(&self) -> &str {
        &self.0.core.name
    }

    /// A shared value given to the builder with `state`.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.core.states.get::<T>()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("bus", &self.0.core.name)
            .field("message_id", &self.0.incoming.id)
            .finish_non_exhaustive()
    }
}

/// The handler's hold on the connection of its unit of work. Derefs to [`UnitConnection`]; drop it to let others have it.
#[derive(Debug)]
pub struct UnitGuard<DB: Backend>(OwnedMappedMutexGuard<UnitSlot, UnitConnection<DB>>);

impl<DB: Backend> Deref for UnitGuard<DB> {
    type Target = UnitConnection<DB>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<DB: Backend> DerefMut for UnitGuard<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Values that handlers share, one of each type.
#[derive(Clone, Default)]
pub(crate) struct States(HashMap<std::any::TypeId, Arc<dyn Any + Send + Sync>>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: Arc<T>) {
        self.0.insert(std::any::TypeId::of::<T>(), state);
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.get(&std::any::TypeId::of::<T>())?.clone().downcast().ok()
    }

    pub(crate) fn has(&self, id: std::any::TypeId) -> bool {
        self.0.contains_key(&id)
    }
}
