//! The head reader.

use std::fmt::Write as _;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, MySqlConnection, Row, mysql::MySqlRow};
use uuid::Uuid;

use super::{MySqlSource, session};
use crate::source::{At, ReadRow, Reader, SourceError, Want, decode::Columns};

const COLUMNS: &str =
    "seq, id, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext";

/// Reads the head of the table without what the relay still has.
pub(super) struct HeadReader {
    name: String,
    connection: MySqlConnection,
}

impl HeadReader {
    pub(super) async fn open(source: &MySqlSource) -> Result<Self, SourceError> {
        Ok(Self { name: source.name.clone(), connection: session::open(source).await? })
    }
}

#[async_trait]
impl Reader for HeadReader {
    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let at = At { name: &self.name };
        // Only integers go into the text.
        let text = AssertSqlSafe(head(&want.known, want.rows_max));
        let found = sqlx::query(text).persistent(false).fetch_all(&mut self.connection);
        let found = at.bounded("reading the outbox", found).await?;
        let (mut rows, mut bytes) = (Vec::with_capacity(found.len()), 0);
        for row in found {
            let columns = at.bounded("reading a row", async { columns(&row) }).await?;
            bytes += columns.payload.as_ref().map_or(0, Vec::len);
            rows.push(columns.parse());
            if bytes > want.bytes_max {
                break;
            }
        }
        Ok(rows)
    }
}

fn head(known: &[i64], limit: usize) -> String {
    let mut text = format!("SELECT {COLUMNS} FROM outbox");
    for (at, seq) in known.iter().enumerate() {
        text.push_str(if at == 0 { " WHERE seq NOT IN (" } else { "," });
        // Writing to a String cannot fail.
        let _ = write!(text, "{seq}");
    }
    if !known.is_empty() {
        text.push(')');
    }
    let _ = write!(text, " ORDER BY seq LIMIT {limit}"); // as above
    text
}

fn columns(row: &MySqlRow) -> Result<Columns, sqlx::Error> {
    Ok(Columns {
        seq: row.try_get(0)?,
        id: row.try_get::<Uuid, _>(1)?,
        destination: row.try_get(2)?,
        aggregatetype: row.try_get(3)?,
        aggregateid: row.try_get(4)?,
        name: row.try_get(5)?,
        payload: row.try_get(6)?,
        headers: row.try_get(7)?,
        tracingspancontext: row.try_get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_left_out() {
        assert!(head(&[], 5).ends_with("FROM outbox ORDER BY seq LIMIT 5"));
        assert!(head(&[3, 7], 5).ends_with("FROM outbox WHERE seq NOT IN (3,7) ORDER BY seq LIMIT 5"));
    }
}
