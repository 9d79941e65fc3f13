//! PostgreSQL.

mod attempts;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;
