//! Sagas, also called process managers: state that outlives a message.
//!
//! A saga is declared with [`Saga::define`] and given to the bus. Its handlers are ordinary handler functions that also ask for
//! [`Saga<D>`](Saga), the state, found by what the message says. The state is saved in the transaction of the message, with
//! everything else; loading and saving cost no round trip.
//!
//! It is messages that move such a saga: it has no plan, and undoes nothing by itself. Steps that are called in an order and undone when
//! a later one fails are an *orchestrated* saga, which is [`crate::orchestration`].
//!
//! ```
//! use barid::{Bus, Context, Memory, Message, Result, Saga, saga::{MemorySagas, by}};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Message)]
//! #[message(name = "orders.placed")]
//! struct OrderPlaced { order_id: u64 }
//!
//! #[derive(Serialize, Deserialize, Message)]
//! #[message(name = "payments.received")]
//! struct PaymentReceived { order_id: u64 }
//!
//! #[derive(Serialize, Deserialize, Message)]
//! #[message(name = "shipping.ship")]
//! struct Ship { order_id: u64 }
//!
//! /// Ships when the order is placed and paid, whichever comes first.
//! #[derive(Default, Serialize, Deserialize)]
//! struct Shipping { placed: bool, paid: bool }
//!
//! async fn on_placed(order: OrderPlaced, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
//!     shipping.placed = true;
//!     ship_when_ready(order.order_id, shipping, cx)
//! }
//!
//! async fn on_paid(payment: PaymentReceived, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
//!     shipping.paid = true;
//!     ship_when_ready(payment.order_id, shipping, cx)
//! }
//!
//! fn ship_when_ready(order_id: u64, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
//!     if shipping.placed && shipping.paid {
//!         cx.publish(Ship { order_id })?;
//!         shipping.complete();
//!     }
//!     Ok(())
//! }
//!
//! let bus = Bus::builder("shipping")
//!     .transport(Memory::new())
//!     .saga(
//!         Saga::<Shipping>::define("shipping")
//!             .starts_with(by("order", |placed: &OrderPlaced| placed.order_id), on_placed)
//!             .starts_with(by("order", |payment: &PaymentReceived| payment.order_id), on_paid),
//!     )
//!     // On a bus with a SQL unit of work sagas are kept in its database, and this line goes.
//!     .memory_sagas(MemorySagas::new())
//!     .build()?;
//! # drop(bus);
//! # Ok::<_, barid::BuildError>(())
//! ```
//!
//! # What is promised
//!
//! * One saga a name, property and value, however many messages start one at the same time: the database enforces it.
//! * No lost update: a state is saved only over the revision that was read. Otherwise the message is handled again from the start,
//!   at once, in a fresh unit of work; see [`BusBuilder::saga_conflict_retries_max`](crate::BusBuilder::saga_conflict_retries_max).
//! * A completed saga stays completed: a tombstone remains for [`SAGA_RETENTION`](crate::limits::SAGA_RETENTION), so that a late or
//!   repeated start does not revive it.
//! * A duplicate that idempotency recognises does not touch a saga.
//!
//! What a saga does not promise: a handler that only reads the state acts on what was committed when its message began. Call
//! [`Saga::touch`] when the message must not commit if the saga has changed meanwhile.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OwnedMappedMutexGuard;
use uuid::Uuid;

use crate::{
    context::Context,
    error::{Error, Result},
    handler::{FromContext, Provided},
    message::Message,
};

pub(crate) mod conflict;
pub(crate) mod definition;
mod handler;
pub(crate) mod instance;
mod memory;
mod missing;
pub(crate) mod retention;
mod state;
mod timeouts;

pub use definition::{By, Definition, Resolution, by, by_header};
pub(crate) use instance::Concerned;
pub use memory::MemorySagas;
pub use missing::{Missing, WhenMissing};

use state::State;
pub(crate) use timeouts::Rescheduled;

/// What can be the state of a saga: it starts as its default and is kept as JSON, whatever the codec of the bus.
///
/// Treat it like a message that you send to your later self: fields may be added with `#[serde(default)]`, and a change that makes
/// stored states unreadable turns their messages into dead letters that say so.
pub trait Data: Serialize + DeserializeOwned + Default + Send + Sync + 'static {}

impl<D: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Data for D {}

/// The state of the saga that a message concerns, for its handler. Derefs to `D`.
///
/// What has changed when the handler returns is saved with the unit of work; what has not changed is not written. It must not
/// outlive the handler.
pub struct Saga<D: Data>(OwnedMappedMutexGuard<State<D>, state::Live<D>>);

impl<D: Data> Saga<D> {
    /// Begins to declare the saga `name`. The name is kept with each instance: keep it stable.
    pub fn define(name: impl Into<String>) -> Definition<D> {
        Definition::new(name.into())
    }

    /// Its id, a UUIDv7.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Whether this message starts it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.0.read.is_none()
    }

    /// How often it was saved after its start; 0 for a new one.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.read.unwrap_or_default().unsigned_abs()
    }

    /// Ends the saga when the message commits: its state is dropped and its pending timeouts are cancelled. Messages for it are
    /// from then on handled as [`Definition::when_missing`] says.
    pub fn complete(&mut self) {
        self.0.completed = true;
    }

    /// Saves it even if it does not change, so that the message fails when somebody else has changed it meanwhile.
    pub fn touch(&mut self) {
        self.0.touched = true;
    }

    /// Makes the saga known by this value of `property` too, for messages that do not know what it was started with. A property has
    /// one value; setting it again replaces it.
    ///
    /// # Errors
    /// When property or value are longer than [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX). That another saga has the value
    /// shows when the message commits: it fails and is handled again.
    pub fn correlate(&mut self, property: impl Into<String>, value: impl ToString) -> Result<()> {
        let correlation = definition::checked(property.into(), value.to_string())?;
        self.0.correlate.retain(|known| known.property != correlation.property);
        self.0.correlate.push(correlation);
        Ok(())
    }
}

/// Timeouts: messages that the saga sends to itself. Their handlers are declared with [`Definition::on_timeout`], and the bus needs a
/// [schedule](crate::BusBuilder::schedule).
impl<D: Data> Saga<D> {
    /// Sends `message` to this saga, `after` the commit. Returns the id that cancels it. It is handled at most once for its effects,
    /// and not at all once it was cancelled or the saga has completed, even if it was on its way by then.
    ///
    /// # Errors
    /// When the saga waits for [`SAGA_TIMEOUTS_MAX`](crate::limits::SAGA_TIMEOUTS_MAX) timeouts already.
    pub fn timeout<M: Message>(&mut self, after: Duration, message: M) -> Result<Uuid> {
        self.0.set_timeout(after, message.into())
    }

    /// Cancels a timeout. Nothing happens when it was handled before.
    pub fn cancel_timeout(&mut self, id: Uuid) {
        self.0.timeouts.cancel(|timeout| timeout.0 == id);
    }

    /// Cancels all timeouts with a message of this type.
    pub fn cancel_timeouts<M: Message>(&mut self) {
        self.0.timeouts.cancel(|timeout| timeout.1 == M::NAME);
    }
}

impl<D: Data> Deref for Saga<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.0.data
    }
}

impl<D: Data> DerefMut for Saga<D> {
    fn deref_mut(&mut self) -> &mut D {
        &mut self.0.data
    }
}

impl<D: Data + fmt::Debug> fmt::Debug for Saga<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saga").field("id", &self.0.id).field("data", &self.0.data).finish_non_exhaustive()
    }
}

impl<D: Data> FromContext for Saga<D> {
    fn check(provided: &Provided<'_>) -> Result<(), String> {
        let name = std::any::type_name::<D>();
        match provided.saga {
            Some((id, _)) if id == std::any::TypeId::of::<D>() => Ok(()),
            Some((_, other)) => {
                Err(format!("it asks for Saga<{name}>, and belongs to a saga whose state is {other}"))
            }
            None => Err(format!(
                "it asks for Saga<{name}> and belongs to no saga: give it to Saga::<{name}>::define(..) instead of .handler(..)"
            )),
        }
    }

    fn from_context(cx: &Context) -> Result<Self> {
        let instance = cx.current_saga().and_then(|saga| saga.downcast::<instance::Instance<D>>().ok());
        let instance = instance.ok_or_else(|| {
            Error::permanent(format!(
                "no handler of a saga with the state {} is running",
                std::any::type_name::<D>()
            ))
        })?;
        instance.guard().map(Self)
    }
}
