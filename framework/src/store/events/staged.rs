//! Events of a distributed transaction: durable before it is decided, and in their streams only if it commits.
//!
//! Preparing is one local transaction: the events are staged, the streams are reserved, and their versions are what was expected.
//! From then on nobody else appends to them, so committing cannot fail because of a version. What became of a transaction is
//! kept until it is forgotten: whoever asks again gets the same answer, and a request to prepare that comes after the rollback is
//! refused.

use std::collections::BTreeMap;

use sqlx::Pool;

use super::{EventStore, Fault, Work, append, append::Batch, stored, to_stage::StagedAppend};
use crate::{
    error::Result as ReadyResult,
    event_store::{EventStoreError, StreamName},
    headers::Headers,
    limits,
    store::{backend::Backend, connection::UnitConnection, statement::Statement},
};

/// Streams of events as one participant of a distributed transaction, on any database.
///
/// Called by the id of the transaction's branch, from any process: nothing is kept in memory.
#[derive(Debug)]
pub struct StagedEvents<DB: Backend> {
    store: EventStore<DB>,
}

impl<DB: Backend> Clone for StagedEvents<DB> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

/// What a transaction that staged events has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StagedOutcome {
    /// Its events are in their streams, now or since an earlier call.
    Committed,
    /// Its events are gone, now or since an earlier call, and it can no longer be prepared.
    RolledBack,
    /// Nothing is known of it: it was never prepared, or it was forgotten.
    Missing,
}

impl<DB: Backend> StagedEvents<DB> {
    /// The streams in the database of `pool`.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { store: EventStore::new(pool) }
    }

    /// The streams of `store`.
    #[must_use]
    pub fn of(store: EventStore<DB>) -> Self {
        Self { store }
    }

    /// That the database has the tables.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    pub async fn ready(&self) -> ReadyResult<()> {
        self.store.ready().await
    }

    /// Makes events durable without showing them, and keeps others from appending to their streams until the end of transaction `xid`.
    /// Preparing what is prepared changes nothing, whatever the events are. Each stream is named once.
    ///
    /// # Errors
    /// [`EventStoreError::Conflict`], [`EventStoreError::Reserved`], [`EventStoreError::DuplicateId`] and
    /// [`EventStoreError::Ended`] are refusals: nothing was staged. After [`EventStoreError::is_transient`] errors the
    /// transaction may be prepared or not: roll it back.
    pub async fn prepare(&self, xid: &str, appends: Vec<StagedAppend>) -> Result<(), EventStoreError> {
        let codec = self.store.codec.as_ref();
        let mut batches = BTreeMap::new();
        for StagedAppend { stream, expected, events } in appends {
            let batch = Batch::encode(&stream, expected, events, codec, &Headers::new())?;
            if batches.insert(stream.to_string(), batch).is_some() {
                return Err(EventStoreError::StreamTwice { stream: stream.to_string() });
            }
        }
        // In the order of their names: two that prepare for the same streams cannot wait for each other.
        let prepare = Prepare { xid: checked(xid)?, batches: batches.into_values().collect() };
        self.store.transaction(format!("staging events of transaction {xid}"), prepare).await
    }

    /// Moves the events of a prepared transaction into their streams.
    ///
    /// # Errors
    /// Every error means: call it again.
    pub async fn commit(&self, xid: &str) -> Result<StagedOutcome, EventStoreError> {
        let doing = format!("committing the events of transaction {xid}");
        self.store.transaction(doing, Commit { xid: checked(xid)? }).await
    }

    /// Discards the events of a transaction, prepared or not, and makes sure that it is not prepared afterwards. One that has
    /// committed stays so, and says so.
    ///
    /// # Errors
    /// Every error means: call it again.
    pub async fn rollback(&self, xid: &str) -> Result<StagedOutcome, EventStoreError> {
        let doing = format!("discarding the events of transaction {xid}");
        self.store.transaction(doing, Rollback { xid: checked(xid)? }).await
    }

    /// The transactions that have prepared and not ended, whose ids begin with `prefix`.
    ///
    /// # Errors
    /// When the database failed. A failed look is not an empty one.
    pub async fn prepared(&self, prefix: &str) -> Result<Vec<String>, EventStoreError> {
        let prepared = self.store.reading("looking for prepared transactions", async |connection| {
            let find =
                Statement::new("SELECT xid FROM event_transaction WHERE state='prepared' ORDER BY xid");
            let (_, rows) = DB::ask(connection, &find).await?;
            let ids = rows.iter().map(|row| Ok(DB::text_at(row, 0)?.unwrap_or_default()));
            ids.collect::<Result<Vec<_>, Fault>>()
        });
        Ok(prepared.await?.into_iter().filter(|xid| xid.starts_with(prefix)).collect())
    }

    /// How many transactions have prepared and not ended, and how long ago the first of them did.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    pub(crate) async fn pressure(&self) -> Result<(u64, Option<std::time::Duration>), EventStoreError> {
        let found = self.store.reading("counting prepared transactions", async |connection| {
            let count = DB::since_1970(Statement::new("SELECT COUNT(*),"), DB::NOW).sql("-");
            let count = DB::since_1970(count, "MIN(updated_at)")
                .sql(" FROM event_transaction WHERE state='prepared'");
            let (_, rows) = DB::ask(connection, &count).await?;
            let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            let since = DB::maybe_int(row, 1)?.map(|millis| u64::try_from(millis).unwrap_or_default());
            Ok((super::counted(DB::int(row, 0)?), since.map(std::time::Duration::from_millis)))
        });
        found.await
    }

    /// Removes what is kept of a transaction that has ended. Afterwards it is [`StagedOutcome::Missing`], and could be prepared.
    ///
    /// # Errors
    /// Every error means: call it again.
    pub async fn forget(&self, xid: &str) -> Result<(), EventStoreError> {
        let doing = format!("forgetting transaction {xid}");
        self.store.transaction(doing, Forget { xid: checked(xid)? }).await
    }
}

/// An id as the tables take it.
fn checked(xid: &str) -> Result<String, EventStoreError> {
    let fits = (1..=limits::NAME_BYTES_MAX).contains(&xid.len());
    let fits = fits && !xid.ends_with(' ') && !xid.chars().any(char::is_control);
    if fits { Ok(xid.to_owned()) } else { Err(EventStoreError::TransactionId { id: xid.to_owned() }) }
}

/// The state of a row that this very transaction has inserted: nobody else ever sees it.
const NEW: &str = "new";

/// Makes the transaction's row unless it is there, and locks it. [`NEW`] when it was not there.
async fn enter<DB: Backend>(connection: &mut DB::Connection, xid: &str) -> Result<String, Fault> {
    // How many rows an insert touched that kept one, the databases do not agree on: the state tells.
    let insert = Statement::new("INSERT INTO event_transaction(xid,state)VALUES(").text(xid);
    let insert = insert.sql(",'").sql(NEW).sql("')").sql(DB::OR_KEEP_XID);
    DB::ask(connection, &insert).await?;
    Ok(current::<DB>(connection, xid).await?.ok_or(sqlx::Error::RowNotFound)?)
}

/// The state of a transaction, whose row is locked.
async fn current<DB: Backend>(connection: &mut DB::Connection, xid: &str) -> Result<Option<String>, Fault> {
    let find = Statement::new("SELECT state FROM event_transaction WHERE xid=").text(xid).sql(DB::AND_LOCK);
    let (_, rows) = DB::ask(connection, &find).await?;
    Ok(rows.first().map(|row| DB::text_at(row, 0)).transpose()?.flatten())
}

/// The streams that a transaction has staged events for, and how many.
async fn streams<DB: Backend>(
    connection: &mut DB::Connection,
    xid: &str,
) -> Result<Vec<(StreamName, i64)>, Fault> {
    let find = Statement::new("SELECT ").sql(DB::STREAM).sql(",COUNT(*) FROM event_staged WHERE xid=");
    let (_, rows) = DB::ask(connection, &find.text(xid).sql(" GROUP BY stream ORDER BY stream")).await?;
    let stream = |row| {
        let name = StreamName::new(DB::text_at(row, 0)?.unwrap_or_default())?;
        Ok((name, DB::int_at(row, 1)?.unwrap_or_default()))
    };
    rows.iter().map(stream).collect()
}

/// Writes what has become of the transaction.
async fn turn<DB: Backend>(
    connection: &mut DB::Connection,
    xid: &str,
    state: &'static str,
) -> Result<(), Fault> {
    let turn = Statement::new("UPDATE event_transaction SET state='").sql(state).sql("',updated_at=");
    DB::ask(connection, &turn.sql(DB::NOW).sql(" WHERE xid=").text(xid)).await?;
    Ok(())
}

/// Removes the staged events and writes how the transaction has ended.
async fn end<DB: Backend>(
    connection: &mut DB::Connection,
    xid: &str,
    state: &'static str,
) -> Result<(), Fault> {
    DB::ask(connection, &Statement::new("DELETE FROM event_staged WHERE xid=").text(xid)).await?;
    turn::<DB>(connection, xid, state).await
}

struct Prepare {
    xid: String,
    batches: Vec<Batch>,
}

impl<DB: Backend> Work<DB> for Prepare {
    type Done = ();

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<(), Fault> {
        let connection = unit.live()?;
        match enter::<DB>(connection, &self.xid).await?.as_str() {
            NEW => {}
            "prepared" => return Ok(()),
            state => {
                let (id, state) = (self.xid.clone(), state.to_owned());
                return Err(EventStoreError::Ended { id, state }.into());
            }
        }
        let mut ordinal = 0;
        for batch in &self.batches {
            let head = append::lock::<DB>(connection, &batch.stream).await?;
            append::fits(&head, batch)?;
            append::ids_are_free::<DB>(connection, batch).await?;
            self.stage::<DB>(connection, batch, ordinal).await?;
            ordinal += batch.events.len() as u64;
        }
        turn::<DB>(connection, &self.xid, "prepared").await
    }
}

impl Prepare {
    async fn stage<DB: Backend>(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch,
        ordinal: u64,
    ) -> Result<(), Fault> {
        if batch.events.is_empty() {
            return Ok(());
        }
        let mut insert =
            Statement::new("INSERT INTO event_staged(xid,ordinal,number,id,stream,name,data,metadata)VALUES");
        for (at, event) in batch.events.iter().enumerate() {
            let at = at as u64;
            let row = insert.sql(if at == 0 { "(" } else { ",(" }).text(&self.xid);
            let row =
                row.sql(",").int(stored(ordinal + at)).sql(",").int(stored(at + 1)).sql(",").id(event.id);
            let row = row.sql(",").text(batch.stream.as_str()).sql(",").text(&event.name);
            let row = row.sql(",").bytes(event.data.clone());
            insert = row.sql(",").json(append::json(&event.headers)).sql(")");
        }
        DB::run(connection, &insert).await?;
        let reserve = Statement::new("UPDATE event_stream SET reserved_by=").text(&self.xid);
        DB::ask(connection, &reserve.sql(" WHERE stream=").text(batch.stream.as_str())).await?;
        Ok(())
    }
}

struct Commit {
    xid: String,
}

impl<DB: Backend> Work<DB> for Commit {
    type Done = StagedOutcome;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<StagedOutcome, Fault> {
        let connection = unit.live()?;
        match current::<DB>(connection, &self.xid).await?.as_deref() {
            None => return Ok(StagedOutcome::Missing),
            Some("committed") => return Ok(StagedOutcome::Committed),
            Some("aborted") => return Ok(StagedOutcome::RolledBack),
            Some(_) => {}
        }
        for (stream, events) in streams::<DB>(connection, &self.xid).await? {
            let head = append::lock::<DB>(connection, &stream).await?;
            if head.reserved_by.as_deref() != Some(&*self.xid) {
                return Err(Fault::from(format!(
                    "stream {stream} is no longer reserved for transaction {}",
                    self.xid
                )));
            }
            let version = stored(head.version);
            let shift = Statement::new(
                "INSERT INTO event_log(id,stream,version,name,data,metadata)SELECT id,stream,",
            )
            .int(version)
            .sql("+number,name,data,metadata FROM event_staged WHERE xid=")
            .text(&self.xid)
            .sql(" AND stream=")
            .text(stream.as_str())
            .sql(" ORDER BY number;UPDATE event_stream SET reserved_by=NULL,version=")
            .int(version + events)
            .sql(" WHERE stream=")
            .text(stream.as_str());
            DB::ask(connection, &shift).await.map_err(|error| append::told(error, &stream))?;
        }
        end::<DB>(connection, &self.xid, "committed").await?;
        Ok(StagedOutcome::Committed)
    }
}

struct Rollback {
    xid: String,
}

impl<DB: Backend> Work<DB> for Rollback {
    type Done = StagedOutcome;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<StagedOutcome, Fault> {
        let connection = unit.live()?;
        match enter::<DB>(connection, &self.xid).await?.as_str() {
            "aborted" => return Ok(StagedOutcome::RolledBack),
            "committed" => return Ok(StagedOutcome::Committed),
            _ => {}
        }
        for (stream, _) in streams::<DB>(connection, &self.xid).await? {
            let free = Statement::new("UPDATE event_stream SET reserved_by=NULL WHERE stream=");
            let free = free.text(stream.as_str()).sql(" AND reserved_by=").text(&self.xid);
            DB::ask(connection, &free).await?;
        }
        end::<DB>(connection, &self.xid, "aborted").await?;
        Ok(StagedOutcome::RolledBack)
    }
}

struct Forget {
    xid: String,
}

impl<DB: Backend> Work<DB> for Forget {
    type Done = ();

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<(), Fault> {
        let forget = Statement::new("DELETE FROM event_transaction WHERE state<>'prepared' AND xid=");
        DB::ask(unit.live()?, &forget.text(&self.xid)).await?;
        Ok(())
    }
}
