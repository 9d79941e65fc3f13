//! Message handlers with a unit of work: business rows, outgoing messages and the idempotency record commit in one database
//! transaction.
//!
//! (The guide follows below the modules; see the README for the two-minute version.)

#[allow(unused_extern_crates)] // the derive macro names the crate, also in its own tests
extern crate self as barid;

pub mod bus;
pub mod clock;
pub mod codec;
mod completion;
pub mod config;
pub mod context;
mod dead_letter;
pub mod destination;
pub mod error;
pub mod handler;
pub mod headers;
pub mod idempotency;
pub mod incoming;
pub mod limits;
pub mod message;
pub mod outbox;
pub mod pipeline;
pub mod retry;
mod routing;
pub mod sender;
pub mod store;
pub mod transaction;
pub mod transport;
pub mod unit_of_work;
mod worker;

pub use barid_macros::Message;
pub use bus::{BuildError, Bus, BusBuilder, BusError};
pub use config::{BusConfig, Config};
pub use context::{Context, UnitGuard};
pub use destination::Destination;
pub use error::{Disposition, Error, Result};
pub use handler::{Attempt, FromContext, Handler, State};
pub use headers::Headers;
pub use idempotency::{DuplicatePolicy, SqlIdempotency};
pub use incoming::Incoming;
pub use message::{Message, Outgoing};
pub use outbox::{Doorbell, Outbox, SqlOutbox};
pub use pipeline::{Next, Pipeline, Position, Step};
pub use retry::RetryPolicy;
pub use sender::Sender;
pub use store::{SqlUnitOfWork, UnitConnection};
pub use transaction::{Stage, TransactionContext};
pub use transport::Transport;
#[cfg(feature = "kafka")]
pub use transport::kafka::Kafka;
pub use transport::memory::Memory;
#[cfg(feature = "rabbitmq")]
pub use transport::rabbitmq::RabbitMq;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use transport::sql::SqlQueue;
pub use unit_of_work::{HandWritten, UnitOfWork};
