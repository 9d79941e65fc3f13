//! SQLite.

pub mod lock;
mod schedule;
mod text;
mod unit;
