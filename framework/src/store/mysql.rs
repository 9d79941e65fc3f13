//! MariaDB and MySQL.

pub(super) mod subscriptions;
mod text;
mod unit;
