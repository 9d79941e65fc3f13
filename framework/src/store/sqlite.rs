//! SQLite.

mod attempts;
pub mod lock;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
