//! MariaDB and MySQL.

mod attempts;
mod batch;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
