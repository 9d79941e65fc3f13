//! MariaDB and MySQL.

mod saga;
mod attempts;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
