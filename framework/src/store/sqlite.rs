//! SQLite.

mod attempts;
mod idempotency;
pub mod lock;
mod results;
mod schedule;
mod text;
mod unit;
pub(super) mod subscriptions;
