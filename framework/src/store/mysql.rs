//! MariaDB and MySQL.

mod attempts;
pub(super) mod subscriptions;
mod text;
mod unit;
