//! MariaDB and MySQL.

mod batch;
mod text;
mod unit;
