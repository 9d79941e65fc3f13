//! Orchestrated sagas in SQL: the sagas in the database of the orchestrator, and the markers of their steps in the databases of these.
//!
//! What differs between the databases is in `store/<database>/orchestration.rs` ([`MarkerRows`]), and what both have of the tables
//! `dtx_*` is in `store/<database>/distributed.rs`.

use std::future::Future;

use sqlx::Database;

use super::backend::Recorded;

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod any;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod book;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod care;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod log;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod marker;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod rows;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod work;

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use log::SqlSagaLog;

use super::statement::Statement;

/// What a step leaves in its database, in the transaction of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub(crate) id: String,
    pub(crate) step: String,
    /// `action` or `compensation`.
    pub(crate) op: &'static str,
    /// `done`, or `refused` for an action that was not done and never will be.
    pub(crate) state: &'static str,
}

impl Marker {
    /// The values of its columns `id`, `step`, `op` and `state`.
    pub(crate) fn values(&self, insert: Statement) -> Statement {
        let insert = insert.text(&self.id).sql(",").text(&self.step).sql(",");
        insert.text(self.op).sql(",").text(self.state)
    }
}

/// The table `orchestration_marker` of one database.
pub trait MarkerRows: Database {
    /// Inserts a marker in a transaction. Whoever holds it in a transaction of his own is not waited for, or not for long.
    fn insert_marker(
        connection: &mut Self::Connection,
        marker: &Marker,
    ) -> impl Future<Output = Result<Recorded, sqlx::Error>> + Send;
}
