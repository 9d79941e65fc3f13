//! Deleting and parking on a connection of their own, while the reader reads.

use std::fmt::Write as _;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor, MySqlConnection};

use super::{MySqlSource, lease, session};
use crate::{
    lane::{Park, RowId},
    lease::Epoch,
    source::{At, SourceError, Writer, held_keys_asked},
};

const COPY: &str = "INSERT IGNORE INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, `type`, \
      payload, headers, tracingspancontext, created_at, state, attempts, last_error) \
    SELECT ?, id, seq, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext, created_at, \
      ?, ?, ? FROM outbox WHERE seq = ? AND id = ?";

/// Locks the epoch, so that another relay takes over either before, and nothing is parked here, or after, and finds the rows
/// parked. Asked last, so that whoever renews the lease waits for one COMMIT and not for locks of rows.
const FENCE: &str = "SELECT epoch FROM relay_source WHERE source = ? AND epoch = ? LOCK IN SHARE MODE";

/// A relay that is stopped in the middle must not keep its locks: the server ends a silent session soon.
const BEGIN: [&str; 2] = ["SET SESSION wait_timeout = 10", "START TRANSACTION"];
const COMMIT: [&str; 2] = ["COMMIT", "SET SESSION wait_timeout = DEFAULT"];

const HELD: &str = "SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = ? AND aggregateid IS NOT NULL AND state <> 'skipped' LIMIT ?";

pub(super) struct MySqlWriter {
    name: String,
    connection: MySqlConnection,
}

impl MySqlWriter {
    pub(super) async fn open(source: &MySqlSource) -> Result<Self, SourceError> {
        Ok(Self { name: source.name.clone(), connection: session::open(source).await? })
    }
}

#[async_trait]
impl Writer for MySqlWriter {
    async fn delete(&mut self, rows: &[RowId]) -> Result<u64, SourceError> {
        let call = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(delete(rows.to_vec()))));
        Ok(At { name: &self.name }.bounded("deleting confirmed rows", call).await?.rows_affected())
    }

    /// A transaction that is cut off at the end of the connection rolls back; this writer is not used again after an error.
    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let at = At { name: &self.name };
        let session = &mut self.connection;
        let parked = async {
            for statement in BEGIN {
                session.execute(statement).await?;
            }
            for park in rows {
                let copy = sqlx::query(COPY).bind(&self.name).bind(park.state.as_str()).bind(park.attempts);
                let copy = copy.bind(&park.reason).bind(park.row.seq).bind(park.row.id);
                copy.execute(&mut *session).await?;
            }
            let rows = rows.iter().map(|park| park.row).collect();
            session.execute(sqlx::raw_sql(AssertSqlSafe(delete(rows)))).await?;
            let fence = sqlx::query(FENCE).bind(&self.name).bind(epoch.0);
            if fence.fetch_optional(&mut *session).await?.is_none() {
                session.execute("ROLLBACK").await?;
                return Ok(false);
            }
            for statement in COMMIT {
                session.execute(statement).await?;
            }
            Ok(true)
        };
        let doing = "parking rows";
        if at.bounded(doing, parked).await? {
            return Ok(());
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn held_keys(&mut self) -> Result<Vec<(String, String)>, SourceError> {
        let at = At { name: &self.name };
        let asked =
            sqlx::query_as(HELD).bind(&self.name).bind(held_keys_asked()).fetch_all(&mut self.connection);
        at.not_too_many(at.bounded("loading held keys", asked).await?)
    }
}

/// One DELETE for all: positions for the index, positions and ids for the truth. Only integers and hex go into the text.
fn delete(mut rows: Vec<RowId>) -> String {
    rows.sort_unstable();
    let (mut seqs, mut pairs) = (String::new(), String::new());
    for (at, row) in rows.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(seqs, "{comma}{}", row.seq);
        let _ = write!(pairs, "{comma}({},x'{}')", row.seq, row.id.simple());
    }
    format!("DELETE FROM outbox WHERE seq IN ({seqs}) AND (seq, id) IN ({pairs})")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn rows_are_deleted_by_position_and_id() {
        let row = |seq| RowId { seq, id: Uuid::from_u128(seq.unsigned_abs().into()) };
        assert_eq!(
            delete(vec![row(10), row(2)]),
            "DELETE FROM outbox WHERE seq IN (2,10) AND (seq, id) IN \
             ((2,x'00000000000000000000000000000002'),(10,x'0000000000000000000000000000000a'))"
        );
    }
}
