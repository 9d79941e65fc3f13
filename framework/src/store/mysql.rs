//! MariaDB and MySQL.

mod idempotency;
mod results;
mod attempts;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
