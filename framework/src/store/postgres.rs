//! PostgreSQL.

mod attempts;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
