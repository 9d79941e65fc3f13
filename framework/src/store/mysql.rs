//! MariaDB and MySQL.

mod attempts;
mod idempotency;
mod results;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
