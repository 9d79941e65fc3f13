//! PostgreSQL.

mod schedule;
mod text;
mod unit;
