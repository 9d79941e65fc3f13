//! MariaDB and MySQL.

mod text;
mod unit;
