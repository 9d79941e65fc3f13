//! The cursor: rows after the last one, when somebody has committed.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Sqlite, pool::PoolConnection};

use crate::{
    lane::LeftOut,
    source::{At, ReadRow, Reader, SourceError, Want, decode::Columns},
};

/// With the age in microseconds, by this machine's clock, which is the database's.
macro_rules! select {
    () => {
        "SELECT seq, id, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext, \
         (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - created_at) * 1000 FROM outbox WHERE "
    };
}

const READ: &str = concat!(select!(), "seq > ? ORDER BY seq LIMIT ?");

/// One key as it is now.
const KEY: &str =
    concat!(select!(), "seq >= ? AND aggregatetype = ? AND aggregateid = ? ORDER BY seq LIMIT ?");

/// Reads what was committed since its last read.
pub(super) struct CursorReader {
    name: Arc<str>,
    connection: PoolConnection<Sqlite>,
    after: i64,
    /// The version of the file at the last read that found nothing more.
    version: Option<i64>,
}

impl CursorReader {
    pub(super) fn new(name: Arc<str>, connection: PoolConnection<Sqlite>) -> Self {
        Self { name, connection, after: i64::MIN, version: None }
    }
}

#[async_trait]
impl Reader for CursorReader {
    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let at = At { name: &self.name };
        let asked = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut *self.connection);
        let version: i64 = at.bounded("asking for the file's version", asked).await?;
        if self.version == Some(version) {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let read = sqlx::query(READ).bind(self.after).bind(limit).fetch_all(&mut *self.connection);
        let found = at.bounded("reading the outbox", read).await?;
        let (mut rows, mut bytes, mut complete) =
            (Vec::with_capacity(found.len()), 0, found.len() < want.rows_max);
        for row in found {
            let columns = at.bounded("reading a row", async { Columns::of(&row, 0) }).await?;
            bytes += columns.payload.as_ref().map_or(0, Vec::len);
            self.after = columns.seq;
            rows.push(columns.parse());
            if bytes > want.bytes_max {
                complete = false;
                break;
            }
        }
        // What was committed between the two statements changes the version and is found next time.
        self.version = complete.then_some(version);
        Ok(rows)
    }

    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let query =
            sqlx::query(KEY).bind(key.from).bind(&key.aggregatetype).bind(&key.aggregateid).bind(limit);
        let read = async {
            let found = query.fetch_all(&mut *self.connection).await?;
            found.iter().map(|row| Columns::of(row, 0)).collect()
        };
        let found = At { name: &self.name }.bounded("reading a key", read).await?;
        Ok(want.take(found))
    }
}
