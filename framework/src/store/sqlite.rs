//! SQLite.

mod attempts;
pub mod lock;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
