//! The buses on SQLite.

use sqlx::Sqlite as Db;

#[path = "buses.rs"]
mod buses;

pub use buses::{close_orders, orders, shipping};
