//! SQLite.

mod attempts;
pub mod lock;
mod saga;
pub(super) mod subscriptions;
mod text;
mod unit;
