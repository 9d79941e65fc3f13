//! The two buses of the shop.
//!
//! `handlers/buses.rs` is what you would write. It is compiled once for each database, because sqlx knows at compile time
//! which database a statement is for: `Db` in it is `sqlx::Sqlite` or `sqlx::Postgres`.

#![allow(clippy::duplicate_mod)] // the same handlers on two databases, on purpose

#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;
