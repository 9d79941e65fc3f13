//! Where things are kept: connection pools, transactions that are held, the schema.
//!
//! Nothing below `store` knows what a handler or a message is. What differs between the databases has a folder for each,
//! with the same file names.

pub mod held;
pub mod pool;
pub mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use pool::{AnyPool, Dialect};
