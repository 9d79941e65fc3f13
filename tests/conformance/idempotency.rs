//! The contract of idempotency on every database: records, in-progress, stored replies, results, high-water marks, retention.
//!
//! There is no implementation in memory: a record that does not commit with the handlers' work proves nothing.

#![allow(clippy::unwrap_used)] // a test

#[allow(dead_code)] // other suites need more of it
mod databases;

#[path = "idempotency/records.rs"]
mod records;
#[path = "idempotency/retention.rs"]
mod retention;
#[path = "idempotency/subject.rs"]
mod subject;
