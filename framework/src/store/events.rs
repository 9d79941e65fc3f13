//! Streams of events in SQL: the statements, which are the same on every database but for what [`EventRows`] says, and
//! [`EventStore`], which runs them in transactions of its own or in a unit of work.

use std::{fmt, future::Future, sync::Arc};

use sqlx::{Database, Pool};
use uuid::Uuid;

use super::{
    backend::{Backend, Recorded},
    connection::UnitConnection,
    contention,
    kept::Kept,
    statement::Opening,
    unit::SqlUnit,
};
use crate::{
    codec::{Codec, Json},
    error::Result as UnitResult,
    event_store::{EventStoreError, Expected, NewEvent, Page, Slice, Snapshot, StreamName},
    headers::Headers,
    limits,
    unit_of_work::{CommitError, Unit},
};

pub(crate) mod append;
pub(crate) mod checkpoint;
mod fault;
mod order;
mod read;
mod snapshot;
mod staged;
mod to_stage;
mod unit;

pub use append::Appended;
pub(crate) use append::Batch;
use fault::Fault;
pub use staged::{StagedEvents, StagedOutcome};
pub use to_stage::StagedAppend;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) use to_stage::StagedAppends;

/// What the tables of the event store need that differs between the databases.
pub trait EventRows: Database {
    /// What is read of an event: id, stream, version, position, name, data, metadata, microseconds since 1970.
    const EVENT_COLUMNS: &'static str;

    /// What an insert into `event_stream` ends with, so that it leaves a row alone that is there already.
    const OR_KEEP_STREAM: &'static str;

    /// The same for `event_transaction`.
    const OR_KEEP_XID: &'static str;

    /// The same for `event_checkpoint`.
    const OR_KEEP_SUBSCRIPTION: &'static str;

    /// The name of a stream as text.
    const STREAM: &'static str;

    /// What an insert into `event_snapshot` ends with, so that the higher version stays.
    const OR_NEWER_SNAPSHOT: &'static str;

    /// What a read ends with that makes others wait for the row.
    const AND_LOCK: &'static str;

    /// The id in this column.
    ///
    /// # Errors
    /// When it holds something else; so do the others.
    fn id_at(row: &Self::Row, at: usize) -> Result<Uuid, sqlx::Error>;

    /// The number in this column.
    ///
    /// # Errors
    /// See [`EventRows::id_at`].
    fn int_at(row: &Self::Row, at: usize) -> Result<Option<i64>, sqlx::Error>;

    /// The text in this column.
    ///
    /// # Errors
    /// See [`EventRows::id_at`].
    fn text_at(row: &Self::Row, at: usize) -> Result<Option<String>, sqlx::Error>;

    /// The bytes in this column.
    ///
    /// # Errors
    /// See [`EventRows::id_at`].
    fn bytes_at(row: &Self::Row, at: usize) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

/// How often an append or an ordering is tried that lost against another one and had no effect.
const TRIES: usize = 10;

/// Streams of events in the database that a pool is open on. Clones share it.
///
/// ```no_run
/// # use barid::{Message, event_store::{EventStore, Expected, Slice, StreamName}};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.placed")]
/// # struct OrderPlaced { sku: String }
/// # async fn doc(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// let store = EventStore::new(pool);
/// let order = StreamName::of("order", 7)?;
/// store.append(&order, Expected::NoStream, [OrderPlaced { sku: "A1".into() }]).await?;
/// for event in store.read(&order, Slice::forward()).await?.events {
///     println!("{} {} {}", event.version, event.name, event.recorded_at);
/// }
/// # Ok(()) }
/// ```
pub struct EventStore<DB: Backend> {
    kept: Arc<Kept<DB>>,
    codec: Arc<dyn Codec>,
}

impl<DB: Backend> EventStore<DB> {
    /// The streams in the database of `pool`. The schema must be there: `barid-relay schema apply`.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { kept: Kept::new(pool), codec: Arc::new(Json) }
    }

    /// Encodes events with `codec` instead of JSON.
    #[must_use]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// That the database has the tables, in the version that this program knows.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    pub async fn ready(&self) -> UnitResult<()> {
        DB::check_schema(self.kept.pool()).await
    }

    /// Appends events to a stream, all or none, in a transaction of its own. Without events it only checks the expectation.
    ///
    /// Appending the same events again, with their ids and the same expectation, changes nothing and says so
    /// ([`Appended::repeated`]), unless the expectation is [`Expected::Any`].
    ///
    /// Not cancel safe: dropped before it returns, the events may be in the store or not.
    ///
    /// # Errors
    /// [`EventStoreError`]. Nothing was written, except that after [`EventStoreError::Unknown`] nobody knows.
    pub async fn append<E: Into<NewEvent>>(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Appended, EventStoreError> {
        let batch = Batch::encode(stream, expected, events, self.codec.as_ref(), &Headers::new())?;
        let doing = format!("appending to stream {stream}");
        self.transaction(doing, batch).await
    }

    /// The same inside a unit of work: the events are there when it commits and not at all when it rolls back.
    ///
    /// # Errors
    /// [`EventStoreError`]. After a conflict the unit can still commit; after an error of the database it cannot.
    pub async fn append_in<E: Into<NewEvent>>(
        &self,
        unit: &mut UnitConnection<DB>,
        stream: &StreamName,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Appended, EventStoreError> {
        let batch = Batch::encode(stream, expected, events, self.codec.as_ref(), &Headers::new())?;
        unit.append_events(&batch).await
    }

    /// One page of a stream. A stream without events is an empty page.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn read(&self, stream: &StreamName, slice: Slice) -> Result<Page, EventStoreError> {
        self.reading(&format!("reading stream {stream}"), async |connection| {
            read::stream::<DB>(connection, stream, slice).await
        })
        .await
    }

    /// One page of all streams, in their global order. Everything that was committed before the call is in the order.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn read_all(&self, slice: Slice) -> Result<Page, EventStoreError> {
        let doing = "reading all streams";
        self.give_positions(slice).await?;
        self.reading(doing, async |connection| read::all::<DB>(connection, slice).await).await
    }

    /// The version of a stream: how many events it has.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn version(&self, stream: &StreamName) -> Result<u64, EventStoreError> {
        self.reading(&format!("reading the version of stream {stream}"), async |connection| {
            read::version::<DB>(connection, stream).await
        })
        .await
    }

    /// Keeps a snapshot, unless a newer one of the same format is there.
    ///
    /// # Errors
    /// [`EventStoreError::SnapshotAhead`] and [`EventStoreError::TooLarge`]; when the database failed.
    pub async fn save_snapshot(
        &self,
        stream: &StreamName,
        snapshot: &Snapshot,
    ) -> Result<(), EventStoreError> {
        let doing = format!("keeping a snapshot of stream {stream}");
        self.transaction(doing, snapshot::Save { stream: stream.clone(), snapshot: snapshot.clone() }).await
    }

    /// The newest snapshot of a format that fits the stream. One that claims more events than there are is not used.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn load_snapshot(
        &self,
        stream: &StreamName,
        format: u32,
    ) -> Result<Option<Snapshot>, EventStoreError> {
        self.reading(&format!("reading the snapshot of stream {stream}"), async |connection| {
            snapshot::load::<DB>(connection, stream, format).await
        })
        .await
    }

    /// Gives what was committed its positions, as far as `slice` needs them.
    async fn give_positions(&self, slice: Slice) -> Result<(), EventStoreError> {
        loop {
            let lacking = self.reading("looking for events without a position", async |connection| {
                order::lacks::<DB>(connection, slice).await
            });
            if !lacking.await? {
                return Ok(());
            }
            let given = self.transaction("giving events their positions".to_owned(), order::Give).await?;
            if given < u64::from(limits::EVENTS_ORDER_ROWS) {
                return Ok(());
            }
        }
    }

    /// Runs `work` in a transaction of its own, again when it lost against another one.
    pub(super) async fn transaction<W: Work<DB>>(
        &self,
        doing: String,
        work: W,
    ) -> Result<W::Done, EventStoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(&work).await {
                Err(Fault::Sql(error)) if tries < TRIES && contention::is_contention(&error) => {}
                ended => return ended.map_err(|fault| fault.while_doing(&doing)),
            }
        }
    }

    async fn once<W: Work<DB>>(&self, work: &W) -> Result<W::Done, Fault> {
        let (mut unit, recorded) =
            SqlUnit::open(&self.kept, &Opening::default()).await.map_err(|error| error.to_string())?;
        let worked = if recorded == Recorded::InProgress {
            Err(Fault::from("another process is writing to the database".to_owned()))
        } else {
            within(work.run(&mut unit.connection)).await
        };
        match worked {
            Ok(done) => match unit.commit().await {
                Ok(()) => Ok(done),
                Err(CommitError::Failed(error)) => Err(Fault::from(error.to_string())),
                Err(CommitError::Unknown(error)) => Err(Fault::Unknown(error.to_string())),
            },
            Err(fault) => {
                // When it fails the connection is closed, which rolls back too: `fault` is what there is to say.
                drop(unit.rollback().await);
                Err(fault)
            }
        }
    }

    /// Runs `work` on a connection that no transaction is open on.
    async fn reading<T>(
        &self,
        doing: &str,
        work: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, Fault>,
    ) -> Result<T, EventStoreError> {
        let read = async {
            let mut connection = self.kept.acquire().await.map_err(|error| error.to_string())?;
            work(&mut connection).await
        };
        within(read).await.map_err(|fault| fault.while_doing(doing))
    }
}

/// What is done in a transaction of its own. It may be done again after it was rolled back.
pub(super) trait Work<DB: Backend>: Send + Sync {
    /// What it comes to.
    type Done: Send;

    fn run(&self, unit: &mut UnitConnection<DB>) -> impl Future<Output = Result<Self::Done, Fault>> + Send;
}

impl<DB: Backend> Clone for EventStore<DB> {
    fn clone(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), codec: Arc::clone(&self.codec) }
    }
}

impl<DB: Backend> fmt::Debug for EventStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStore").field("database", &DB::DISPLAY).finish_non_exhaustive()
    }
}

/// A call to the database that nobody has to wait for without end.
async fn within<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(limits::CALL_TIMEOUT, call).await.unwrap_or(Err(Fault::Timeout))
}

/// A version or a position as the tables hold it. They count events: no database holds more than this has room for.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A version or a position that was read.
fn counted(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    fn can_be_spawned(_: impl Future + Send) {}

    #[tokio::test]
    async fn what_it_does_can_be_spawned() {
        let store = EventStore::new(sqlx::SqlitePool::connect_lazy("sqlite::memory:").unwrap());
        let stream = StreamName::new("s").unwrap();
        can_be_spawned(store.append(&stream, Expected::Any, Vec::<NewEvent>::new()));
        can_be_spawned(store.read(&stream, Slice::forward()));
        can_be_spawned(store.save_snapshot(&stream, &Snapshot::json(1, 1, &()).unwrap()));
        can_be_spawned(store.read_all(Slice::forward()));
        can_be_spawned(store.load_snapshot(&stream, 1));
    }
}
