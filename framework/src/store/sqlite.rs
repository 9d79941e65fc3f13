//! SQLite.

pub mod lock;
mod saga;
mod text;
mod unit;
