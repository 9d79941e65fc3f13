//! Deleting, archiving and parking on a connection of their own, while the reader reads.

use std::{fmt::Write as _, time::Duration};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor, MySqlConnection};
use uuid::Uuid;

use super::{MySqlSource, archive, lease, session};
use crate::{
    archive::Expired,
    lane::{Park, RowId},
    lease::Epoch,
    source::{At, BEFORE_ALL, HeldKey, PARKED_PAGE, Released, SourceError, Writer},
};

const COPY: &str = "INSERT IGNORE INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, `type`, \
      payload, headers, tracingspancontext, created_at, state, attempts, last_error, fingerprint) \
    SELECT ?, id, seq, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext, created_at, \
      ?, ?, ?, ? FROM outbox WHERE seq = ? AND id = ?";

/// Locks the epoch, so that another relay takes over either before, and nothing is done here, or after, and finds the rows
/// where they are now. Asked last, so that whoever renews the lease waits for one COMMIT and not for locks of rows.
const FENCE: &str = "SELECT epoch FROM relay_source WHERE source = ? AND epoch = ? LOCK IN SHARE MODE";

/// A relay that is stopped in the middle must not keep its locks: the server ends a silent session soon.
const BEGIN: [&str; 2] = ["SET SESSION wait_timeout = 10", "START TRANSACTION"];
const COMMIT: [&str; 2] = ["COMMIT", "SET SESSION wait_timeout = DEFAULT"];

/// `seq` twice: once for the index, which a comparison of pairs does not use, and once for the truth.
const HELD: &str = "SELECT seq, id, aggregatetype, aggregateid FROM relay_parked WHERE source = ? AND state = 'poison' \
    AND aggregateid IS NOT NULL AND seq >= ? AND (seq, id) > (?, ?) ORDER BY seq, id LIMIT ?";

const FREE: &str = "SELECT p.seq, p.id FROM relay_parked p WHERE p.source = ? AND p.state = 'behind' AND p.seq >= ? \
      AND (p.seq, p.id) > (?, ?) AND NOT EXISTS (SELECT 1 FROM relay_parked q WHERE q.source = p.source \
        AND q.state = 'poison' AND q.aggregatetype = p.aggregatetype AND q.aggregateid = p.aggregateid AND q.seq < p.seq) \
    ORDER BY p.seq, p.id LIMIT ? FOR UPDATE";

/// A position that somebody else has by now (the table was emptied and its numbers begin anew) is left to them, and the row
/// goes to the end. What follows are the rows.
const PUT_BACK: &str = "INSERT INTO outbox (seq, id, created_at, destination, aggregatetype, aggregateid, `type`, payload, \
      headers, tracingspancontext) \
    SELECT IF(EXISTS (SELECT 1 FROM outbox o WHERE o.seq = p.seq), NULL, p.seq), p.id, p.created_at, p.destination, \
      p.aggregatetype, p.aggregateid, p.`type`, p.payload, p.headers, p.tracingspancontext FROM relay_parked p";

const RELEASED: &str = "SELECT COALESCE((SELECT times FROM relay_released WHERE source = ?), 0), \
    EXISTS (SELECT 1 FROM relay_parked WHERE source = ?)";

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

    async fn archive(&mut self, epoch: Epoch, rows: &[RowId]) -> Result<u64, SourceError> {
        let doing = "archiving confirmed rows";
        let call = archive::archive(&mut self.connection, &self.name, epoch, rows);
        if let Some(moved) = (At { name: &self.name }).bounded(doing, call).await? {
            return Ok(moved);
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn expire(&mut self, epoch: Epoch, keep: Duration, after: i64) -> Result<Expired, SourceError> {
        let doing = "removing old rows of the archive";
        let call = archive::expire(&mut self.connection, &self.name, epoch, keep, after);
        if let Some(expired) = (At { name: &self.name }).bounded(doing, call).await? {
            return Ok(expired);
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    /// A transaction that is cut off at the end of the connection rolls back; this writer is not used again after an error.
    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let doing = "parking rows";
        let parked = park(&mut self.connection, &self.name, epoch, rows);
        let newest = At { name: &self.name }.bounded(doing, parked).await?;
        if newest {
            return Ok(());
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn held_keys(&mut self, after: Option<RowId>) -> Result<Vec<HeldKey>, SourceError> {
        let after = after.unwrap_or(BEFORE_ALL);
        let call = sqlx::query_as(HELD).bind(&self.name).bind(after.seq).bind(after.seq).bind(after.id);
        let rows = call.bind(PARKED_PAGE).fetch_all(&mut self.connection);
        let rows: Vec<(i64, Uuid, String, String)> =
            At { name: &self.name }.bounded("loading held keys", rows).await?;
        let key = |(seq, id, aggregatetype, aggregateid)| HeldKey {
            row: RowId { seq, id },
            aggregatetype,
            aggregateid,
        };
        Ok(rows.into_iter().map(key).collect())
    }

    /// Each page is a transaction, cut off like that of [`Self::park`].
    async fn put_back(&mut self, epoch: Epoch) -> Result<u64, SourceError> {
        let (mut after, mut moved) = (BEFORE_ALL, 0);
        let doing = "putting released rows back";
        loop {
            let page = put_back(&mut self.connection, &self.name, epoch, after);
            let page = At { name: &self.name }.bounded(doing, page).await?;
            let Some(rows) = page else {
                return Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await);
            };
            let Some(last) = rows.last() else { return Ok(moved) };
            (after, moved) = (*last, moved + rows.len() as u64);
        }
    }

    async fn released(&mut self) -> Result<Released, SourceError> {
        let call = sqlx::query_as(RELEASED).bind(&self.name).bind(&self.name).fetch_one(&mut self.connection);
        let (times, parked) = At { name: &self.name }.bounded("looking for released rows", call).await?;
        Ok(Released { times, parked })
    }
}

/// Parks rows, unless the epoch is no longer the newest.
async fn park(
    session: &mut MySqlConnection,
    name: &str,
    epoch: Epoch,
    rows: &[Park],
) -> Result<bool, sqlx::Error> {
    begin(session).await?;
    for park in rows {
        let copy = sqlx::query(COPY).bind(name).bind(park.state.as_str()).bind(park.attempts);
        let copy = copy.bind(&park.reason).bind(&park.fingerprint).bind(park.row.seq).bind(park.row.id);
        copy.execute(&mut *session).await?;
    }
    let rows = rows.iter().map(|park| park.row).collect();
    session.execute(sqlx::raw_sql(AssertSqlSafe(delete(rows)))).await?;
    commit_if_newest(session, name, epoch).await
}

/// Puts a page of rows back; none, unless the epoch is the newest.
async fn put_back(
    session: &mut MySqlConnection,
    name: &str,
    epoch: Epoch,
    after: RowId,
) -> Result<Option<Vec<RowId>>, sqlx::Error> {
    begin(session).await?;
    let free = sqlx::query_as(FREE).bind(name).bind(after.seq).bind(after.seq).bind(after.id);
    let free: Vec<(i64, Uuid)> = free.bind(PARKED_PAGE).fetch_all(&mut *session).await?;
    let rows: Vec<RowId> = free.into_iter().map(|(seq, id)| RowId { seq, id }).collect();
    if !rows.is_empty() {
        let these = parked(&rows);
        let copy = AssertSqlSafe(format!("{PUT_BACK} WHERE p.{these} ORDER BY p.seq"));
        sqlx::query(copy).persistent(false).bind(name).execute(&mut *session).await?;
        let delete = AssertSqlSafe(format!("DELETE FROM relay_parked WHERE {these}"));
        sqlx::query(delete).persistent(false).bind(name).execute(&mut *session).await?;
    }
    Ok(commit_if_newest(session, name, epoch).await?.then_some(rows))
}

pub(super) async fn begin(session: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    for statement in BEGIN {
        session.execute(statement).await?;
    }
    Ok(())
}

pub(super) async fn commit_if_newest(
    session: &mut MySqlConnection,
    name: &str,
    epoch: Epoch,
) -> Result<bool, sqlx::Error> {
    let fence = sqlx::query(FENCE).bind(name).bind(epoch.0);
    if fence.fetch_optional(&mut *session).await?.is_none() {
        session.execute("ROLLBACK").await?;
        return Ok(false);
    }
    for statement in COMMIT {
        session.execute(statement).await?;
    }
    Ok(true)
}

/// These rows of a source: ids for the index, positions and ids for the truth. Only integers and hex go into the text.
fn parked(rows: &[RowId]) -> String {
    let (mut ids, mut pairs) = (String::new(), String::new());
    for (at, row) in rows.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(ids, "{comma}x'{}'", row.id.simple());
        let _ = write!(pairs, "{comma}({},x'{}')", row.seq, row.id.simple());
    }
    format!("source = ? AND id IN ({ids}) AND (seq, id) IN ({pairs})")
}

/// One DELETE for all.
pub(super) fn delete(rows: Vec<RowId>) -> String {
    format!("DELETE FROM outbox WHERE {}", these(rows))
}

/// These rows of the outbox: positions for the index, positions and ids for the truth. Only integers and hex go into the text.
pub(super) fn these(mut rows: Vec<RowId>) -> String {
    rows.sort_unstable();
    let (mut seqs, mut pairs) = (String::new(), String::new());
    for (at, row) in rows.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(seqs, "{comma}{}", row.seq);
        let _ = write!(pairs, "{comma}({},x'{}')", row.seq, row.id.simple());
    }
    format!("seq IN ({seqs}) AND (seq, id) IN ({pairs})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_rows_are_named_by_position_and_id() {
        let row = |seq| RowId { seq, id: Uuid::from_u128(seq.unsigned_abs().into()) };
        assert_eq!(
            parked(&[row(2), row(10)]),
            "source = ? AND id IN (x'00000000000000000000000000000002',x'0000000000000000000000000000000a') AND \
             (seq, id) IN ((2,x'00000000000000000000000000000002'),(10,x'0000000000000000000000000000000a'))"
        );
    }

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
