//! PostgreSQL.

mod batch;
mod text;
mod unit;
