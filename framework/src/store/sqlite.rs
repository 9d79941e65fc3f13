//! SQLite.

mod idempotency;
pub mod lock;
mod results;
mod text;
mod unit;
