//! Reading: pages by key, never by offset.

use super::{Fault, counted, stored};
use crate::{
    event_store::{Direction, Page, RecordedEvent, Slice, StreamName},
    headers::Headers,
    store::{backend::Backend, statement::Statement},
};

/// A page of one stream.
pub(super) async fn stream<DB: Backend>(
    connection: &mut DB::Connection,
    stream: &StreamName,
    slice: Slice,
) -> Result<Page, Fault> {
    let statement = select::<DB>().sql("stream=").text(stream.as_str()).sql(" AND ");
    let statement =
        keyed(statement, slice, "version>", "version<", "ORDER BY version", "ORDER BY version DESC");
    page::<DB>(connection, &statement, slice, |event| Some(event.version)).await
}

/// A page of all streams, as far as they have positions.
pub(super) async fn all<DB: Backend>(connection: &mut DB::Connection, slice: Slice) -> Result<Page, Fault> {
    let statement = select::<DB>();
    let statement =
        keyed(statement, slice, "position>", "position<", "ORDER BY position", "ORDER BY position DESC");
    page::<DB>(connection, &statement, slice, |event| event.position).await
}

/// How many events a stream has.
pub(super) async fn version<DB: Backend>(
    connection: &mut DB::Connection,
    stream: &StreamName,
) -> Result<u64, Fault> {
    let statement = Statement::new("SELECT version FROM event_stream WHERE stream=").text(stream.as_str());
    let (_, rows) = DB::ask(connection, &statement).await?;
    let version = rows.first().map(|row| DB::int_at(row, 0)).transpose()?.flatten();
    Ok(version.map_or(0, counted))
}

fn select<DB: Backend>() -> Statement {
    Statement::new("SELECT ").sql(DB::EVENT_COLUMNS).sql(" FROM event_log WHERE ")
}

/// The rest of a query for one page. Numbers begin at 1: behind 0 is the beginning, before the highest number the end.
fn keyed(
    statement: Statement,
    slice: Slice,
    behind: &'static str,
    before: &'static str,
    up: &'static str,
    down: &'static str,
) -> Statement {
    let statement = match slice.direction {
        Direction::Forward => statement.sql(behind).int(stored(slice.after.unwrap_or(0))).sql(" ").sql(up),
        Direction::Backward => {
            statement.sql(before).int(stored(slice.after.unwrap_or(u64::MAX))).sql(" ").sql(down)
        }
    };
    statement.sql(" LIMIT ").int(slice.max.into())
}

async fn page<DB: Backend>(
    connection: &mut DB::Connection,
    statement: &Statement,
    slice: Slice,
    key: impl Fn(&RecordedEvent) -> Option<u64>,
) -> Result<Page, Fault> {
    let (_, rows) = DB::ask(connection, statement).await?;
    let events = rows.iter().map(event::<DB>).collect::<Result<Vec<_>, _>>()?;
    let full = events.len() == slice.max as usize;
    let next = events.last().filter(|_| full).and_then(key);
    Ok(Page { events, next })
}

fn event<DB: Backend>(row: &DB::Row) -> Result<RecordedEvent, sqlx::Error> {
    let unreadable = |what: &'static str| sqlx::Error::Decode(what.into());
    let headers = DB::text_at(row, 6)?.unwrap_or_default();
    let headers: Headers =
        serde_json::from_str(&headers).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let micros = DB::int_at(row, 7)?.unwrap_or_default();
    Ok(RecordedEvent {
        id: DB::id_at(row, 0)?,
        stream: DB::text_at(row, 1)?.unwrap_or_default(),
        version: counted(DB::int_at(row, 2)?.unwrap_or_default()),
        position: DB::int_at(row, 3)?.map(counted),
        name: DB::text_at(row, 4)?.unwrap_or_default(),
        data: DB::bytes_at(row, 5)?.unwrap_or_default().into(),
        headers,
        recorded_at: chrono::DateTime::from_timestamp_micros(micros)
            .ok_or_else(|| unreadable("a time that is out of range"))?,
    })
}
