//! The relay: publishes a transactional outbox, in order per key, nothing lost.
pub mod lane;
