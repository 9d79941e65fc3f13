//! SQLite.

mod attempts;
mod batch;
mod distributed;
mod idempotency;
pub mod lock;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
