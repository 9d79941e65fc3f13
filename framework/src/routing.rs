//! From a message name to the handlers that take it, and to the destination it goes to.
//!
//! A command goes to the one queue that owns it, by its name or by a pattern. An event goes to its topics: its own and those
//! of its declared bases, by a convention that a bus may replace.

mod handlers;
mod pattern;
mod routes;

pub(crate) use handlers::Handlers;
pub(crate) use routes::{Routes, Target};
pub use routes::{topic_by_aggregate, topic_by_name};
