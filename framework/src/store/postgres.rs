//! PostgreSQL.

mod idempotency;
mod partitions;
mod results;
mod text;
mod unit;
