//! What only SQLite needs.

pub mod lock;
