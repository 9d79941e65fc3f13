//! SQLite.

mod attempts;
mod idempotency;
pub mod lock;
mod results;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
