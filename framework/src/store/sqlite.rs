//! SQLite.

pub mod lock;
mod text;
mod unit;
