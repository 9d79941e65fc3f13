//! The relay: publishes a transactional outbox to RabbitMQ, Kafka or a SQL queue, in order per key, nothing lost.
//!
//! It runs as the program `barid-relay`, or inside a process of yours. The rooms, in the order in which a row meets them:
//! [`source`] reads it (one relay at a time, says [`lease`]), [`lane`] decides when it may go, [`sink`] knows where, [`relay`] is the loop that joins them.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use barid::{store::AnyPool, transport::sql::SqlQueue};
//! use barid_relay::{Relay, lane::Order, sink::Sink, source};
//!
//! let pool = AnyPool::connect("sqlite:orders.db", 8).await?;
//! let relay = Relay::builder(source::open::source("orders", &pool))
//!     .sink(Sink::new("queues", Arc::new(SqlQueue::new(pool.clone()))))
//!     .route("*", "queues", Order::Strict)
//!     .build()?;
//! let doorbell = relay.doorbell();
//! let running = tokio::spawn(relay.run_until(async {
//!     // When the process is told to stop; if that cannot be heard, at once.
//!     let _ = tokio::signal::ctrl_c().await;
//! }));
//! doorbell.ring(); // after a commit
//! running.await??;
//! # Ok(()) }
//! ```

pub mod admin;
pub mod archive;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod failpoint;
pub mod format;
pub mod lane;
pub mod lease;
pub mod metrics;
pub mod parked;
pub mod relay;
pub mod setup;
pub mod sink;
pub mod source;
pub mod survey;
pub mod tx;
pub mod waking;

pub use barid::Doorbell;
pub use relay::{Relay, RelayError};
