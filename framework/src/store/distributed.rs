//! Distributed transactions in SQL: the decision log, the home unit of work, and branches.
//!
//! What differs between the databases is in `store/<database>/distributed.rs` ([`DtxRows`]) and, where a database can prepare, in
//! `store/<database>/branch.rs` ([`branch::TwoPhase`]).

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod any;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) mod book;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod branch;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub mod bus;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod care;
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) mod enlisted;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod events;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod examine;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod guard;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod home;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod last;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod log;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod markers;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod opened;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod two_phase;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod unit;

use sqlx::Database;

use super::statement::Statement;
use crate::distributed::BranchId;

/// The tables `dtx_*` of one database.
pub trait DtxRows: Database {
    /// As status and log call it.
    const RESOURCE_TYPE: &'static str;

    /// Begins a transaction that writes.
    const BEGIN: &'static str;

    /// The same for what may be lost in a crash of the server, where its COMMIT then need not wait for the disk.
    const BEGIN_LAZY: &'static str = Self::BEGIN;

    /// Appends the time that is so many milliseconds from now.
    fn later(statement: Statement, millis: i64) -> Statement;

    /// An insert of a tombstone that waits for a branch in flight, but not for long.
    fn tombstone(branch: &BranchId) -> Statement;

    /// Appends what makes a read wait for whoever is writing the row.
    const READ_LOCKED: &'static str;

    /// Appends the milliseconds since 1970 of a column that holds a time; NULL stays NULL.
    fn since_1970(statement: Statement, column: &'static str) -> Statement;

    /// How many rows a statement affected.
    fn affected(result: &Self::QueryResult) -> u64;

    /// Text of a column.
    ///
    /// # Errors
    /// When it is none.
    fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error>;

    /// A number of a column.
    ///
    /// # Errors
    /// When it is none.
    fn int(row: &Self::Row, column: usize) -> Result<i64, sqlx::Error>;

    /// A number of a column, or NULL.
    ///
    /// # Errors
    /// When it is neither.
    fn maybe_int(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error>;

    /// An id of a column.
    ///
    /// # Errors
    /// When it is none.
    fn id(row: &Self::Row, column: usize) -> Result<uuid::Uuid, sqlx::Error>;

    /// Whether a database error says that somebody waits for somebody else, or lost against it: try again.
    fn is_contention(error: &dyn sqlx::error::DatabaseError) -> bool;
}

/// The marker of a branch, inserted as its last write: it commits with the branch or not at all, and meets the tombstone of a
/// branch that was rolled back before.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) fn marker(branch: &BranchId) -> Statement {
    Statement::new("INSERT INTO dtx_marker(xid,state)VALUES(").text(branch.to_string()).sql(",'branch')")
}
