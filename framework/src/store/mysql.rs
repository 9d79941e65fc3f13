//! MariaDB and MySQL.

mod idempotency;
mod results;
mod text;
mod unit;
