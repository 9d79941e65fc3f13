//! The buses on PostgreSQL.

use sqlx::Postgres as Db;

#[path = "buses.rs"]
mod buses;

pub use buses::{close_orders, orders, shipping};
