//! What the unit of work needs from a database: the two text statements around the handler, and what an error means.
//!
//! Each database implements [`Backend`] in `store/<database>/`, with the same file names. Everything that is interpolated
//! into SQL text is written by `shared` and `store/<database>/text.rs`, from UUIDs, integers, hex and, on
//! PostgreSQL, plain text (printable ASCII without quote and backslash), and nowhere else.

use std::future::Future;

use sqlx::{Database, Pool, pool::PoolConnection};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::{
    attempts::AttemptRows,
    batch::BatchRows,
    distributed::DtxRows,
    events::EventRows,
    idempotency::IdempotencyRows,
    keys::KeyRows,
    orchestration::MarkerRows,
    results::ResultRows,
    saga::SagaRows,
    schedule::ScheduleRows,
    shared,
    statement::{Opening, Statement, Writes},
};
use crate::{error::Result, transport::OutgoingRow};

/// What makes a delivery recognisable: the message id within a scope (the bus's name).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The message id.
    pub message_id: Uuid,
    /// The bus's name: its handlers share one unit of work, so they share one record.
    pub scope: String,
}

/// What the insert of the idempotency record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The record is new and belongs to this transaction.
    Fresh,
    /// A committed record exists: the message was handled.
    Duplicate,
    /// Another transaction holds the key and has not ended: try again later.
    InProgress,
}

/// What is known of the statements that make the two texts cheap, once they are prepared on a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing: trying to execute them tells.
    #[default]
    Unknown,
    /// The session has them.
    Yes,
    /// The server cannot prepare them, on any session.
    Impossible,
}

/// What the opening text found.
pub struct Opened<DB: Database> {
    /// What the insert of the idempotency record says; [`Recorded::Fresh`] when none was asked for.
    pub recorded: Recorded,
    /// The rows of each read.
    pub reads: Vec<Vec<DB::Row>>,
}

impl<DB: Database> Opened<DB> {
    pub(crate) fn without_reads(recorded: Recorded) -> Self {
        Self { recorded, reads: Vec::new() }
    }
}

/// What an error of a statement says about the transaction it ran in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server refused: the transaction did not and will not commit.
    Refused,
    /// The answer did not come: nobody knows.
    Unknown,
}

/// A database that can hold units of work. Implemented for `Postgres`, `MySql` and `Sqlite`; not meant for others.
pub trait Backend:
    Database
    + AttemptRows
    + BatchRows
    + DtxRows
    + EventRows
    + IdempotencyRows
    + KeyRows
    + MarkerRows
    + ResultRows
    + SagaRows
    + ScheduleRows
    + sealed::Sealed
{
    /// As it appears in messages: `PostgreSQL`, `MariaDB/MySQL`, `SQLite`.
    const DISPLAY: &'static str;

    /// The right to write, where the database has only one writer. Taken before a connection is.
    fn writer(pool: &Pool<Self>) -> impl Future<Output = Option<OwnedMutexGuard<()>>> + Send;

    /// That the database has the tables this program knows, in the version it knows.
    fn check_schema(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;

    /// Sends the opening text: the transaction, the idempotency record, the savepoint `barid_unit`, the reads.
    ///
    /// On [`Recorded::Fresh`] and [`Recorded::Duplicate`] the transaction is open and usable. `prepared` says what is known of
    /// the session, and is set to what this learned.
    fn open(
        connection: &mut Self::Connection,
        opening: &Opening,
        prepared: &mut Prepared,
    ) -> impl Future<Output = Result<Opened<Self>, sqlx::Error>> + Send;

    /// The closing text: the release of the savepoint first, then the statements and the outbox rows, then COMMIT. `None` when
    /// it would be too large for one text.
    fn closing(writes: &Writes, prepared: Prepared) -> Option<String>;

    /// Runs one statement with bound parameters, and says how many rows it touched.
    fn run(
        connection: &mut Self::Connection,
        statement: &Statement,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Ends the transaction with one text, or step by step when it would be too large for that.
    fn commit(
        connection: &mut Self::Connection,
        writes: &Writes,
        prepared: Prepared,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        commit_by_text::<Self>(connection, writes, prepared)
    }

    /// Inserts outbox rows with bound parameters, in the order given.
    fn insert_outbox(
        connection: &mut Self::Connection,
        rows: &[OutgoingRow],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Sends one text that takes no part in the protocol above (ROLLBACK, savepoints of handlers).
    fn simple(
        connection: &mut Self::Connection,
        text: String,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What an error of the closing text means.
    fn verdict(error: &sqlx::Error) -> Verdict;
}

/// [`Backend::commit`] by one text, or in steps.
pub(crate) async fn commit_by_text<DB: Backend>(
    connection: &mut DB::Connection,
    writes: &Writes,
    prepared: Prepared,
) -> Result<(), sqlx::Error> {
    if let Some(text) = DB::closing(writes, prepared) {
        return DB::simple(connection, text).await;
    }
    // Boxed: rare, and large.
    let in_steps = async {
        DB::simple(connection, shared::RELEASE.to_owned()).await?;
        for statement in &writes.statements {
            DB::run(connection, statement).await?;
        }
        if !writes.outbox.is_empty() {
            DB::insert_outbox(connection, &writes.outbox).await?;
        }
        DB::simple(connection, "COMMIT".to_owned()).await
    };
    Box::pin(in_steps).await
}

/// Takes a connection out of its pool and drops it: whatever was open on it ends with it.
pub(crate) fn sever<DB: Backend>(connection: PoolConnection<DB>) {
    drop(connection.detach());
}

pub(crate) mod sealed {
    /// Keeps [`super::Backend`] to the databases that the conformance suite runs against.
    pub trait Sealed {}
}
