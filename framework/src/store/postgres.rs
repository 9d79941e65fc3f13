//! PostgreSQL.

mod attempts;
mod text;
mod unit;
