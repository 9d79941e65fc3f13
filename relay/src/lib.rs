//! The relay: publishes a transactional outbox, in order per key, nothing lost.
pub mod config;
pub mod lane;
pub mod relay;
pub mod sink;
pub mod source;

pub use relay::{Doorbell, Relay, RelayError};
