//! PostgreSQL.

mod idempotency;
mod partitions;
mod results;
mod attempts;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
