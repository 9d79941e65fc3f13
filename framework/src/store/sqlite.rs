//! SQLite.

mod batch;
pub mod lock;
mod text;
mod unit;
