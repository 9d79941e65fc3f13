//! Where things are kept: connection pools, transactions that are held, the schema, the SQL unit of work.
//!
//! Nothing below `store` knows what a handler is. What differs between the databases has a folder for each, with the same
//! file names.

// Without a database nobody asks for most of it.
#![cfg_attr(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")), allow(dead_code))]

pub(crate) mod attempts;
pub mod backend;
pub mod batch;
pub mod connection;
pub(crate) mod contention;
pub mod distributed;
pub(crate) mod events;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod held;
pub mod idempotency;
pub(crate) mod kept;
pub(crate) mod keys;
#[cfg(feature = "mysql")]
mod mysql;
pub mod orchestration;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod pool;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod results;
pub(crate) mod saga;
pub(crate) mod schedule;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod schema;
pub(crate) mod shared;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod statement;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod subscriptions;
pub(crate) mod unit;

pub use backend::Backend;
pub use connection::{Savepoint, UnitConnection};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use pool::{AnyPool, Dialect};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use subscriptions::SqlSubscriptions;
pub use unit::SqlUnitOfWork;
