//! MariaDB and MySQL.

mod attempts;
mod batch;
mod branch;
mod distributed;
mod idempotency;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
