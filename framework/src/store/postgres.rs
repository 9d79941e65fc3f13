//! PostgreSQL.

mod attempts;
mod idempotency;
mod partitions;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
