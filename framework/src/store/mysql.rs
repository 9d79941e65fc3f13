//! MariaDB and MySQL.

mod schedule;
mod text;
mod unit;
