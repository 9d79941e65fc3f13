//! SQLite.

mod attempts;
pub mod lock;
mod text;
mod unit;
