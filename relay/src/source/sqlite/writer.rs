//! Deleting, archiving and parking, each batch in a short transaction behind the file's lock.

use std::time::Duration;

use async_trait::async_trait;
use barid::store::held::{CommitError, HeldTransaction};
use sqlx::Sqlite;
use uuid::Uuid;

use super::{SqliteSource, archive, lease};
use crate::{
    archive::Expired,
    failpoint::{self, Point},
    lane::{Park, RowId},
    lease::Epoch,
    source::{BEFORE_ALL, HeldKey, PARKED_PAGE, Released, SourceError, Writer},
};

pub(super) const DELETE: &str = "DELETE FROM outbox WHERE seq = ? AND id = ?";

const COPY: &str = "INSERT OR IGNORE INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, type, \
      payload, headers, tracingspancontext, created_at, state, attempts, last_error, fingerprint) \
    SELECT ?, id, seq, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext, created_at, \
      ?, ?, ?, ? FROM outbox WHERE seq = ? AND id = ?";

const HELD: &str = "SELECT seq, id, aggregatetype, aggregateid FROM relay_parked WHERE source = ? AND state = 'poison' \
    AND aggregateid IS NOT NULL AND (seq, id) > (?, ?) ORDER BY seq, id LIMIT ?";

const FREE: &str = "SELECT p.seq, p.id FROM relay_parked p WHERE p.source = ? AND p.state = 'behind' AND (p.seq, p.id) > (?, ?) \
      AND NOT EXISTS (SELECT 1 FROM relay_parked q WHERE q.source = p.source AND q.state = 'poison' \
        AND q.aggregatetype = p.aggregatetype AND q.aggregateid = p.aggregateid AND q.seq < p.seq) \
    ORDER BY p.seq, p.id LIMIT ?";

/// A position that somebody else has by now (the table was emptied and its numbers begin anew) is left to them, and the row
/// goes to the end.
const PUT_BACK: &str = "INSERT INTO outbox (seq, id, created_at, destination, aggregatetype, aggregateid, type, payload, \
      headers, tracingspancontext) \
    SELECT CASE WHEN EXISTS (SELECT 1 FROM outbox o WHERE o.seq = p.seq) THEN NULL ELSE p.seq END, id, created_at, destination, \
      aggregatetype, aggregateid, type, payload, headers, tracingspancontext FROM relay_parked p \
    WHERE source = ? AND id = ? AND seq = ?";

const UNPARK: &str = "DELETE FROM relay_parked WHERE source = ? AND id = ? AND seq = ?";

const RELEASED: &str = "SELECT coalesce((SELECT times FROM relay_released WHERE source = ?1), 0), \
    EXISTS (SELECT 1 FROM relay_parked WHERE source = ?1)";

pub(super) struct SqliteWriter {
    source: SqliteSource,
}

impl SqliteWriter {
    pub(super) fn new(source: SqliteSource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn delete(&mut self, rows: &[RowId]) -> Result<u64, SourceError> {
        let deleted = async {
            let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
            let mut deleted = 0;
            for row in rows {
                let one = sqlx::query(DELETE).bind(row.seq).bind(row.id);
                deleted += one.execute(transaction.connection()).await?.rows_affected();
            }
            failpoint::reached(Point::AfterMarkBeforeCommit);
            commit(transaction).await?;
            Ok(deleted)
        };
        self.source.at().bounded("deleting confirmed rows", deleted).await
    }

    async fn archive(&mut self, epoch: Epoch, rows: &[RowId]) -> Result<u64, SourceError> {
        let doing = "archiving confirmed rows";
        let call = archive::archive(&self.source, epoch, rows);
        if let Some(moved) = self.source.at().bounded(doing, call).await? {
            return Ok(moved);
        }
        Err(lease::fenced(&self.source, doing, epoch).await)
    }

    async fn expire(&mut self, epoch: Epoch, keep: Duration, after: i64) -> Result<Expired, SourceError> {
        let doing = "removing old rows of the archive";
        let call = archive::expire(&self.source, epoch, keep, after);
        if let Some(expired) = self.source.at().bounded(doing, call).await? {
            return Ok(expired);
        }
        Err(lease::fenced(&self.source, doing, epoch).await)
    }

    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let parked = async {
            let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
            if !lease::is_newest(&self.source, &mut transaction, epoch).await? {
                transaction.rollback().await?;
                return Ok(false);
            }
            for park in rows {
                let copy =
                    sqlx::query(COPY).bind(&*self.source.name).bind(park.state.as_str()).bind(park.attempts);
                let copy =
                    copy.bind(&park.reason).bind(&park.fingerprint).bind(park.row.seq).bind(park.row.id);
                copy.execute(transaction.connection()).await?;
                let delete = sqlx::query(DELETE).bind(park.row.seq).bind(park.row.id);
                delete.execute(transaction.connection()).await?;
            }
            commit(transaction).await?;
            Ok(true)
        };
        let doing = "parking rows";
        if self.source.at().bounded(doing, parked).await? {
            return Ok(());
        }
        Err(lease::fenced(&self.source, doing, epoch).await)
    }

    async fn held_keys(&mut self, after: Option<RowId>) -> Result<Vec<HeldKey>, SourceError> {
        let after = after.unwrap_or(BEFORE_ALL);
        let call = sqlx::query_as(HELD).bind(&*self.source.name).bind(after.seq).bind(after.id);
        let rows = call.bind(PARKED_PAGE).fetch_all(&self.source.pool);
        let rows: Vec<(i64, Uuid, String, String)> =
            self.source.at().bounded("loading held keys", rows).await?;
        let key = |(seq, id, aggregatetype, aggregateid)| HeldKey {
            row: RowId { seq, id },
            aggregatetype,
            aggregateid,
        };
        Ok(rows.into_iter().map(key).collect())
    }

    async fn put_back(&mut self, epoch: Epoch) -> Result<u64, SourceError> {
        let (mut after, mut moved) = (BEFORE_ALL, 0);
        let doing = "putting released rows back";
        loop {
            let page = self.put_back_page(epoch, after);
            let Some(rows) = self.source.at().bounded(doing, page).await? else {
                return Err(lease::fenced(&self.source, doing, epoch).await);
            };
            let Some(last) = rows.last() else { return Ok(moved) };
            (after, moved) = (*last, moved + rows.len() as u64);
        }
    }

    async fn released(&mut self) -> Result<Released, SourceError> {
        let call = sqlx::query_as(RELEASED).bind(&*self.source.name).fetch_one(&self.source.pool);
        let (times, parked) = self.source.at().bounded("looking for released rows", call).await?;
        Ok(Released { times, parked })
    }
}

impl SqliteWriter {
    /// None, unless the epoch is the newest.
    async fn put_back_page(&self, epoch: Epoch, after: RowId) -> Result<Option<Vec<RowId>>, sqlx::Error> {
        let name = &*self.source.name;
        let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
        if !lease::is_newest(&self.source, &mut transaction, epoch).await? {
            transaction.rollback().await?;
            return Ok(None);
        }
        let free = sqlx::query_as(FREE).bind(name).bind(after.seq).bind(after.id).bind(PARKED_PAGE);
        let free: Vec<(i64, Uuid)> = free.fetch_all(transaction.connection()).await?;
        for (seq, id) in &free {
            for text in [PUT_BACK, UNPARK] {
                let statement = sqlx::query(text).bind(name).bind(id).bind(seq);
                statement.execute(transaction.connection()).await?;
            }
        }
        commit(transaction).await?;
        Ok(Some(free.into_iter().map(|(seq, id)| RowId { seq, id }).collect()))
    }
}

/// Both kinds of failure mean the same here: do it again.
pub(super) async fn commit(transaction: HeldTransaction<Sqlite>) -> Result<(), sqlx::Error> {
    transaction.commit().await.map_err(|error| match error {
        CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
        other => sqlx::Error::Protocol(other.to_string()),
    })
}
