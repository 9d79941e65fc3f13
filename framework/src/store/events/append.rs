//! Appending: the stream's row is locked, its version is what was expected or nothing happens, the events are inserted, the version
//! is moved on. Two round trips.

use super::{Fault, Work, counted, stored};
use crate::{
    codec::Codec,
    event_store::{EventStoreError, Expected, NewEvent, StreamName},
    headers::Headers,
    limits,
    store::{backend::Backend, connection::UnitConnection, statement::Statement},
};

/// Events that are to be appended to one stream together, encoded and checked.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) stream: StreamName,
    pub(crate) expected: Expected,
    pub(crate) events: Vec<crate::event_store::EncodedEvent>,
}

/// What appending came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The version of the stream, which is that of the last event.
    pub version: u64,
    /// The same events were there already, from an earlier try whose answer was lost: nothing was written.
    pub repeated: bool,
}

impl Batch {
    pub(crate) fn encode<E: Into<NewEvent>>(
        stream: &StreamName,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
        codec: &dyn Codec,
        defaults: &Headers,
    ) -> Result<Self, EventStoreError> {
        let encoded = events.into_iter().map(|event| event.into().encode(stream, codec, defaults));
        let events = encoded.collect::<Result<Vec<_>, _>>()?;
        let batch = Self { stream: stream.clone(), expected, events };
        batch.check()?;
        Ok(batch)
    }

    fn check(&self) -> Result<(), EventStoreError> {
        let fits = |what: &str, is: usize, max: usize| {
            let (stream, what) = (self.stream.to_string(), what.to_owned());
            if is <= max { Ok(()) } else { Err(EventStoreError::TooLarge { stream, what, is, max }) }
        };
        fits("the number of events of one append", self.events.len(), limits::EVENTS_APPEND_MAX)?;
        let mut all = 0;
        for event in &self.events {
            let headers: usize = event.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            let bytes = event.data.len() + headers;
            fits(&format!("event {:?}", event.name), bytes, limits::EVENT_BYTES_MAX)?;
            all += bytes;
        }
        fits("what one append holds", all, limits::EVENTS_APPEND_BYTES_MAX)
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.data.len()).sum()
    }
}

/// The row of a stream, which is locked.
pub(super) struct Head {
    pub(super) version: u64,
    pub(super) reserved_by: Option<String>,
}

/// Makes the stream's row unless it is there, and locks it: whoever else appends waits until this transaction ends.
pub(super) async fn lock<DB: Backend>(
    connection: &mut DB::Connection,
    stream: &StreamName,
) -> Result<Head, Fault> {
    let statement = Statement::new("INSERT INTO event_stream(stream)VALUES(")
        .text(stream.as_str())
        .sql(")")
        .sql(DB::OR_KEEP_STREAM)
        .sql(";SELECT version,reserved_by FROM event_stream WHERE stream=")
        .text(stream.as_str())
        .sql(DB::AND_LOCK);
    let (_, rows) = DB::ask(connection, &statement).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Head { version: counted(DB::int_at(row, 0)?.unwrap_or_default()), reserved_by: DB::text_at(row, 1)? })
}

impl<DB: Backend> Work<DB> for Batch {
    type Done = Appended;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<Appended, Fault> {
        let connection = unit.live()?;
        let head = lock::<DB>(connection, &self.stream).await?;
        if let Err(refused) = fits(&head, self) {
            let expected = self.expected.version().filter(|expected| *expected < head.version);
            if let Some(expected) = expected
                && repeats::<DB>(connection, self, expected).await?
            {
                return Ok(Appended { version: expected + self.events.len() as u64, repeated: true });
            }
            return Err(refused.into());
        }
        write::<DB>(connection, self, head.version).await?;
        Ok(Appended { version: head.version + self.events.len() as u64, repeated: false })
    }
}

/// Whether the stream may be appended to, and is what was expected.
pub(super) fn fits(head: &Head, batch: &Batch) -> Result<(), EventStoreError> {
    let stream = || batch.stream.to_string();
    if let Some(by) = &head.reserved_by {
        return Err(EventStoreError::Reserved { stream: stream(), by: by.clone() });
    }
    match batch.expected.version() {
        Some(expected) if expected != head.version => Err(EventStoreError::Conflict {
            stream: stream(),
            expected: batch.expected,
            actual: head.version,
        }),
        _ => Ok(()),
    }
}

/// That no event in the store has the id of one of these.
pub(super) async fn ids_are_free<DB: Backend>(
    connection: &mut DB::Connection,
    batch: &Batch,
) -> Result<(), Fault> {
    if batch.events.is_empty() {
        return Ok(());
    }
    let mut find = Statement::new("SELECT seq FROM event_log WHERE id IN(");
    for (at, event) in batch.events.iter().enumerate() {
        find = find.sql(if at == 0 { "" } else { "," }).id(event.id);
    }
    match DB::ask(connection, &find.sql(") LIMIT 1")).await?.1.is_empty() {
        true => Ok(()),
        false => Err(EventStoreError::DuplicateId { stream: batch.stream.to_string() }.into()),
    }
}

/// Whether exactly these events follow the version that was expected: an earlier try had committed.
async fn repeats<DB: Backend>(
    connection: &mut DB::Connection,
    batch: &Batch,
    expected: u64,
) -> Result<bool, Fault> {
    if batch.events.is_empty() {
        return Ok(false);
    }
    let mut statement =
        Statement::new("SELECT COUNT(*) FROM event_log WHERE stream=").text(batch.stream.as_str());
    for (at, event) in batch.events.iter().enumerate() {
        statement = statement.sql(if at == 0 { " AND(version=" } else { " OR version=" });
        statement = statement.int(stored(expected + 1 + at as u64)).sql(" AND id=").id(event.id);
    }
    let (_, rows) = DB::ask(connection, &statement.sql(")")).await?;
    let found = rows.first().map(|row| DB::int_at(row, 0)).transpose()?.flatten();
    Ok(found == Some(stored(batch.events.len() as u64)))
}

/// Writes the events behind `version` and moves the stream on. The row of the stream is locked.
pub(super) async fn write<DB: Backend>(
    connection: &mut DB::Connection,
    batch: &Batch,
    version: u64,
) -> Result<(), Fault> {
    if batch.events.is_empty() {
        return Ok(());
    }
    let mut insert = Statement::new("INSERT INTO event_log(id,stream,version,name,data,metadata)VALUES");
    for (at, event) in batch.events.iter().enumerate() {
        let row = insert.sql(if at == 0 { "(" } else { ",(" }).id(event.id);
        let row = row.sql(",").text(batch.stream.as_str()).sql(",").int(stored(version + 1 + at as u64));
        let row = row.sql(",").text(&event.name).sql(",").bytes(event.data.clone());
        insert = row.sql(",").json(json(&event.headers)).sql(")");
    }
    let update = |statement: Statement| {
        let statement = statement.int(stored(version + batch.events.len() as u64));
        statement.sql(" WHERE stream=").text(batch.stream.as_str())
    };
    let written = if batch.bytes() > limits::OUTBOX_TEXT_BYTES_MAX / 2 {
        match DB::run(connection, &insert).await {
            Ok(_) => DB::ask(connection, &update(Statement::new("UPDATE event_stream SET version=")))
                .await
                .map(drop),
            Err(error) => Err(error),
        }
    } else {
        DB::ask(connection, &update(insert.sql(";UPDATE event_stream SET version="))).await.map(drop)
    };
    written.map_err(|error| told(error, &batch.stream))
}

/// What an error of an insert into the log means.
pub(super) fn told(error: sqlx::Error, stream: &StreamName) -> Fault {
    let is_id = |said: &str| said.contains("event_log_id") || said.contains("event_log.id");
    match error.as_database_error() {
        Some(answer) if answer.is_unique_violation() && is_id(answer.message()) => {
            Fault::Duplicate { stream: stream.to_string() }
        }
        _ => Fault::Sql(error),
    }
}

/// Headers as the column holds them.
pub(super) fn json(headers: &Headers) -> String {
    // A map of text to text cannot fail.
    serde_json::to_string(headers).unwrap_or_else(|_| "{}".to_owned())
}
