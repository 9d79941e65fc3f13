//! PostgreSQL.

mod attempts;
mod idempotency;
mod partitions;
mod results;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
