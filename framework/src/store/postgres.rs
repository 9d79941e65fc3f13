//! PostgreSQL.

mod saga;
mod attempts;
pub(super) mod subscriptions;
mod text;
mod unit;
