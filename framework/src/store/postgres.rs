//! PostgreSQL.

pub(super) mod subscriptions;
mod text;
mod unit;
