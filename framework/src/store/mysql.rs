//! MariaDB and MySQL.

mod saga;
mod text;
mod unit;
