//! PostgreSQL.

mod attempts;
pub(super) mod subscriptions;
mod text;
mod unit;
