//! MariaDB and MySQL.

mod attempts;
mod text;
mod unit;
