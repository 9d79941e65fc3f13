//! The SQL queue on every database: one suite, the promises of the transport one by one.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

mod databases;

#[path = "sql_queue/claims.rs"]
mod claims;
#[path = "sql_queue/delivery.rs"]
mod delivery;
#[path = "sql_queue/lost.rs"]
mod lost;
#[path = "sql_queue/place.rs"]
mod place;
#[path = "sql_queue/publishing.rs"]
mod publishing;
