//! PostgreSQL.

mod attempts;
mod batch;
mod branch;
mod distributed;
mod events;
mod examine;
mod idempotency;
mod keys;
mod orchestration;
mod partitions;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;

pub(super) use self::examine::{examine, pooler};
