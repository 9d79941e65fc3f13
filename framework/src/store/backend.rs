//! What the unit of work needs from a database: the two text statements around the handler, and what an error means.
//!
//! Each database implements [`Backend`] in `store/<database>/`, with the same file names. Everything that is interpolated
//! into SQL text is built here or there from UUIDs, integers and hex, and nowhere else.

use std::future::Future;

use sqlx::{Database, Pool, pool::PoolConnection};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

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

/// What an error of a statement says about the transaction it ran in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server refused: the transaction did not and will not commit.
    Refused,
    /// The answer did not come: nobody knows.
    Unknown,
}

/// A database that can hold units of work. Implemented for `Postgres`, `MySql` and `Sqlite`; not meant for others.
pub trait Backend: Database + sealed::Sealed {
    /// As it appears in messages: `PostgreSQL`, `MariaDB/MySQL`, `SQLite`.
    const DISPLAY: &'static str;

    /// The right to write, where the database has only one writer. Taken before a connection is.
    fn writer(pool: &Pool<Self>) -> impl Future<Output = Option<OwnedMutexGuard<()>>> + Send;

    /// That the database has the tables this program knows, in the version it knows.
    fn check_schema(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;

    /// Sends the opening text: the transaction, the idempotency record, the savepoint `barid_unit`.
    ///
    /// On [`Recorded::Fresh`] and [`Recorded::Duplicate`] the transaction is open and usable.
    fn open(
        connection: &mut Self::Connection,
        key: Option<&IdempotencyKey>,
    ) -> impl Future<Output = Result<Recorded, sqlx::Error>> + Send;

    /// Sends the closing text: the release of the savepoint first, then the outbox rows, then COMMIT.
    fn commit(
        connection: &mut Self::Connection,
        rows: &[OutgoingRow],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

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

    /// Counts a started attempt, or takes one back (`by` = 1 or -1), and returns the count afterwards.
    fn count_attempt(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
        by: i32,
        error: Option<&str>,
    ) -> impl Future<Output = Result<u32, sqlx::Error>> + Send;

    /// Forgets the attempts of a message.
    fn forget_attempts(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// Takes a connection out of its pool and drops it: whatever was open on it ends with it.
pub(crate) fn sever<DB: Backend>(connection: PoolConnection<DB>) {
    drop(connection.detach());
}

/// [`Verdict`] of everything that is not an answer of the server: the answer is missing.
pub(crate) fn verdict_by(
    error: &sqlx::Error,
    refused: impl Fn(&dyn sqlx::error::DatabaseError) -> bool,
) -> Verdict {
    match error {
        sqlx::Error::Database(answer) if refused(answer.as_ref()) => Verdict::Refused,
        // Nothing was sent: the text was refused on our side, or a bound value could not be encoded.
        sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}

/// Writes the outbox rows as the VALUES of one INSERT, each value through `literal`, and returns `None` when the text
/// would be too large.
pub(crate) fn outbox_values(
    rows: &[OutgoingRow],
    id: fn(Uuid) -> String,
    text: fn(&str) -> String,
    json: fn(&str) -> String,
    bytes: fn(&[u8]) -> String,
) -> Option<String> {
    let payload: usize = rows.iter().map(OutgoingRow::payload_len).sum();
    if payload * 2 > crate::limits::OUTBOX_TEXT_BYTES_MAX {
        return None;
    }
    let mut values = String::with_capacity(payload * 2 + rows.len() * 512);
    for row in rows {
        values.push_str(if values.is_empty() { "(" } else { ",(" });
        let optional = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), text);
        let cells = [
            id(row.id),
            text(&row.destination.to_string()),
            text(&row.aggregatetype),
            optional(&row.aggregateid),
            text(&row.name),
            row.payload.as_ref().map_or_else(|| "NULL".to_owned(), |body| bytes(body)),
            json(&headers_json(row)),
            optional(&row.tracingspancontext),
        ];
        values.push_str(&cells.join(","));
        values.push(')');
    }
    (values.len() <= crate::limits::OUTBOX_TEXT_BYTES_MAX).then_some(values)
}

/// The columns that [`outbox_values`] fills, in its order.
pub(crate) const OUTBOX_COLUMNS: &str =
    "id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext";

/// The headers of a row as the JSON object that its column holds.
pub(crate) fn headers_json(row: &OutgoingRow) -> String {
    serde_json::to_string(&row.headers).unwrap_or_else(|_| "{}".to_owned())
}

pub(crate) mod sealed {
    /// Keeps [`super::Backend`] to the databases that the conformance suite runs against.
    pub trait Sealed {}
}
