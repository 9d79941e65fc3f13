//! What a database has to offer whose transactions can be prepared.

use std::future::Future;

use crate::{
    distributed::{Ack, BranchId, CoordinatorId, Decision, Pressure, RmError, Vote},
    store::{backend::Backend, connection::UnitConnection},
};

/// A database whose transactions can be prepared.
pub trait TwoPhase: Backend {
    /// Opens the transaction of a branch.
    fn begin(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes the marker and prepares. The branch is told on the same connection how it ends, and by its name when that is lost.
    fn prepare(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
    ) -> impl Future<Output = Result<Vote, RmError>> + Send;

    /// Whether a prepared transaction belongs to its session until that ends.
    const KEEPS_SESSION: bool;

    /// Ends a prepared branch in the session that has prepared it. `None`: there is no such branch.
    fn end(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
        decision: Decision,
    ) -> impl Future<Output = Result<Option<Ack>, RmError>> + Send;

    /// The same in any other session, by its name.
    fn end_by_name(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
        decision: Decision,
    ) -> impl Future<Output = Result<Option<Ack>, RmError>> + Send {
        Self::end(connection, branch, decision)
    }

    /// The branches of this log that are prepared.
    fn prepared(
        connection: &mut UnitConnection<Self>,
        coordinator: CoordinatorId,
    ) -> impl Future<Output = Result<Vec<BranchId>, sqlx::Error>> + Send;

    /// Why it can never be prepared as it is set up, with the remedy. Asked once in a process, before the first branch is opened.
    fn unfit(
        connection: &mut UnitConnection<Self>,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Why it cannot be prepared now, with the remedy, or what it is.
    fn examine(
        connection: &mut UnitConnection<Self>,
    ) -> impl Future<Output = Result<Result<String, String>, sqlx::Error>> + Send;

    /// How many prepared transactions there are.
    fn pressure(
        connection: &mut UnitConnection<Self>,
    ) -> impl Future<Output = Result<Pressure, sqlx::Error>> + Send;

    /// Classifies what a statement of phase two said.
    fn classify(error: &sqlx::Error) -> RmError;
}
