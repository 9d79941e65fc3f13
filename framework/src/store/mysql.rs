//! MariaDB and MySQL.

mod attempts;
mod batch;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
