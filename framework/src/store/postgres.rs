//! PostgreSQL.

mod text;
mod unit;
