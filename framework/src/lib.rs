//! Message handlers with a unit of work: business rows, outgoing messages and the idempotency record commit in one database
//! transaction.
//!
//! A message meets the crate in this order: a [`Transport`] delivers it, the worker runs the incoming [`pipeline`] for it, a
//! [`UnitOfWork`] begins, the [`Handler`]s run and stage what they send, and the [`TransactionContext`] commits everything in
//! stages. `ARCHITECTURE.md` in the repository has the whole way, and where each promise is kept.
//!
//! ```
//! use barid::{Bus, Context, Memory, Message, Result, SqlOutbox, SqlUnitOfWork};
//! use serde::{Deserialize, Serialize};
//! use sqlx::Sqlite;
//!
//! #[derive(Serialize, Deserialize, Message)]
//! #[message(name = "orders.place")]
//! struct PlaceOrder { order_id: i64 }
//!
//! #[derive(Serialize, Deserialize, Message)]
//! #[message(name = "orders.placed")]
//! struct OrderPlaced { order_id: i64 }
//!
//! async fn place_order(cmd: PlaceOrder, cx: Context) -> Result<()> {
//!     let mut db = cx.unit_of_work::<Sqlite>().await?;
//!     sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.order_id).execute(&mut *db).await?;
//!     cx.publish(OrderPlaced { order_id: cmd.order_id })
//! }
//!
//! # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = sqlx::SqlitePool::connect("sqlite://orders.db").await?;
//! let bus = Bus::builder("orders")
//!     .transport(Memory::new())
//!     .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
//!     .outbox(SqlOutbox::new())
//!     .handler(place_order)
//!     .build()?;
//! # drop(bus); Ok(()) }
//! ```
//!
//! # Commit timing
//!
//! | `commit_with_transaction` | the unit of work commits | outbox, idempotency |
//! |---|---|---|
//! | `false` (default) | right after the handlers, before the transaction context's own stages | refused by `build()` |
//! | `true` | as the context's commit stage, everything in one transaction | work |
//!
//! # Features
//!
//! `postgres`, `mysql`, `sqlite` (default), `rabbitmq`, `kafka`, and `kafka-ssl` for TLS and SCRAM to Kafka (needs the OpenSSL
//! headers). `test-kit` has what the tests of a program need that extends Barid (module `testing`).

#[allow(unused_extern_crates)] // the derive macro names the crate, also in its own tests
extern crate self as barid;

mod background;
pub mod backoff;
pub mod batch;
pub mod bus;
pub mod clock;
pub mod codec;
mod completion;
pub mod config;
pub mod context;
pub mod dead_letter;
pub mod destination;
pub mod distributed;
pub mod doorbell;
pub mod error;
pub mod event_store;
pub mod handler;
pub mod headers;
pub mod health;
pub mod host;
pub mod idempotency;
pub mod incoming;
pub mod limits;
pub mod message;
pub mod orchestration;
pub mod outbox;
pub mod pipeline;
pub mod request;
pub mod retry;
pub mod routing;
pub mod saga;
pub mod schedule;
pub mod sender;
pub mod store;
pub mod subscriptions;
#[cfg(feature = "test-kit")]
pub mod testing;
pub mod transaction;
pub mod transport;
pub mod unit_of_work;
mod worker;

pub use backoff::Backoff;
pub use barid_macros::Message;
pub use batch::{Batch, BatchPolicy};
pub use bus::{BuildError, Bus, BusBuilder, BusError};
pub use config::{BusConfig, Config};
pub use context::{Context, UnitGuard};
pub use dead_letter::DeadLetter;
pub use destination::Destination;
pub use doorbell::Doorbell;
pub use error::{Disposition, Error, Result};
pub use event_store::{EventFeed, EventStore};
pub use handler::{Attempt, Failed, FromContext, Handler, State};
pub use headers::Headers;
pub use health::{BusState, Health};
pub use host::{Host, HostError, Liveness, RestartPolicy};
pub use idempotency::{DuplicatePolicy, SqlIdempotency};
pub use incoming::Incoming;
pub use message::{Message, Outgoing};
pub use outbox::{Outbox, SqlOutbox};
pub use pipeline::{Next, Pipeline, Position, Step};
pub use request::{MessageResult, Problem, Request, RequestError};
pub use retry::RetryPolicy;
pub use saga::Saga;
pub use schedule::{MemorySchedule, Schedule, SqlSchedule};
pub use sender::Sender;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use store::SqlSubscriptions;
pub use store::{SqlUnitOfWork, UnitConnection};
pub use subscriptions::{MemorySubscriptions, SubscriptionStore, Subscriptions};
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
pub use worker::{
    breaker::{Circuit, CircuitBreaker},
    rate::RateLimit,
};
