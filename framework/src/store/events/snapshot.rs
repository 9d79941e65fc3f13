//! Snapshots: the newest of each format stays.

use super::{Fault, Work, counted, read, stored};
use crate::{
    event_store::{EventStoreError, Snapshot, StreamName},
    limits,
    store::{backend::Backend, connection::UnitConnection, statement::Statement},
};

/// Keeps a snapshot, unless a newer one is there.
pub(super) struct Save {
    pub(super) stream: StreamName,
    pub(super) snapshot: Snapshot,
}

impl<DB: Backend> Work<DB> for Save {
    type Done = ();

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<(), Fault> {
        save::<DB>(unit.live()?, &self.stream, &self.snapshot).await
    }
}

pub(super) async fn save<DB: Backend>(
    connection: &mut DB::Connection,
    stream: &StreamName,
    snapshot: &Snapshot,
) -> Result<(), Fault> {
    let (name, is, max) = (stream.to_string(), snapshot.data.len(), limits::EVENT_BYTES_MAX);
    if is > max {
        let what = "a snapshot".to_owned();
        return Err(EventStoreError::TooLarge { stream: name, what, is, max }.into());
    }
    let actual = read::version::<DB>(connection, stream).await?;
    if snapshot.version > actual {
        let ahead = EventStoreError::SnapshotAhead { stream: name, snapshot: snapshot.version, actual };
        return Err(ahead.into());
    }
    let insert = Statement::new("INSERT INTO event_snapshot(stream,format,version,data)VALUES(")
        .text(stream.as_str())
        .sql(",")
        .int(snapshot.format.into())
        .sql(",")
        .int(stored(snapshot.version))
        .sql(",")
        .bytes(snapshot.data.clone())
        .sql(")")
        .sql(DB::OR_NEWER_SNAPSHOT);
    DB::run(connection, &insert).await?;
    Ok(())
}

pub(super) async fn load<DB: Backend>(
    connection: &mut DB::Connection,
    stream: &StreamName,
    format: u32,
) -> Result<Option<Snapshot>, Fault> {
    let find = Statement::new(
        "SELECT s.version,s.data FROM event_snapshot s JOIN event_stream h ON h.stream=s.stream AND s.version<=h.version \
         WHERE s.stream=",
    )
    .text(stream.as_str())
    .sql(" AND s.format=")
    .int(format.into());
    let (_, rows) = DB::ask(connection, &find).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let version = counted(DB::int_at(row, 0)?.unwrap_or_default());
    Ok(Some(Snapshot { version, format, data: DB::bytes_at(row, 1)?.unwrap_or_default().into() }))
}
