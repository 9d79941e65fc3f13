//! Faults of the databases that have an outbox. Each test is named after its row of the fault table, runs the relay's
//! binary under load, proves that the fault happened, and keeps the books.
//!
//! `BARID_TEST_LONG=1` runs more rounds, and waits out the longest bounds.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::servers;

#[path = "database/crash.rs"]
mod crash;
#[path = "database/gaps.rs"]
mod gaps;
#[path = "database/mariadb.rs"]
mod mariadb;
#[path = "database/postgres.rs"]
mod postgres;
#[path = "database/refusing.rs"]
mod refusing;
#[path = "database/sqlite.rs"]
mod sqlite;

/// How often something is done that can be done again and again.
fn rounds() -> usize {
    if servers::long() { 30 } else { 3 }
}
