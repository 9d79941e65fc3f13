//! PostgreSQL.

mod saga;
mod text;
mod unit;
