//! PostgreSQL.

mod attempts;
mod batch;
mod branch;
mod distributed;
mod idempotency;
mod partitions;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
