//! SQLite.

mod attempts;
pub mod lock;
pub(super) mod subscriptions;
mod text;
mod unit;
