//! Archiving what was confirmed, and removing what has been there for long enough: short transactions behind the file's lock.

use barid::store::held::HeldTransaction;

use super::{
    SqliteSource, lease,
    writer::{DELETE, commit},
};
use crate::{
    archive::Expired,
    failpoint::{self, Point},
    lane::RowId,
    lease::Epoch,
    source::{ARCHIVE_PAGE, whole_millis},
};

const COPY: &str = "INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, aggregateid, type, payload, \
      headers, tracingspancontext) \
    SELECT ?, id, seq, created_at, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext FROM outbox \
    WHERE seq = ? AND id = ?";

const END: &str = "SELECT position FROM relay_archive WHERE position > ? ORDER BY position LIMIT 1 OFFSET ?";

/// The plus signs keep the other indexes out of it: this is a range of the primary key.
const REMOVE: &str = "DELETE FROM relay_archive WHERE position > ? AND position <= ? AND +source = ? \
    AND +published_at < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - ?";

const LEFT: &str = "SELECT position FROM relay_archive WHERE position > ? AND position <= ? AND +source = ? \
    ORDER BY position LIMIT 1";

/// How many rows were moved; none, unless the epoch is the newest.
pub(super) async fn archive(
    source: &SqliteSource,
    epoch: Epoch,
    rows: &[RowId],
) -> Result<Option<u64>, sqlx::Error> {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    let mut transaction = HeldTransaction::begin_immediate(&source.pool).await?;
    if !lease::is_newest(source, &mut transaction, epoch).await? {
        transaction.rollback().await?;
        return Ok(None);
    }
    let mut moved = 0;
    for row in rows {
        let copy = sqlx::query(COPY).bind(&*source.name).bind(row.seq).bind(row.id);
        moved += copy.execute(transaction.connection()).await?.rows_affected();
        let delete = sqlx::query(DELETE).bind(row.seq).bind(row.id);
        delete.execute(transaction.connection()).await?;
    }
    failpoint::reached(Point::AfterMarkBeforeCommit);
    commit(transaction).await?;
    Ok(Some(moved))
}

/// One step; none, unless the epoch is the newest.
pub(super) async fn expire(
    source: &SqliteSource,
    epoch: Epoch,
    keep: std::time::Duration,
    after: i64,
) -> Result<Option<Expired>, sqlx::Error> {
    let mut transaction = HeldTransaction::begin_immediate(&source.pool).await?;
    if !lease::is_newest(source, &mut transaction, epoch).await? {
        transaction.rollback().await?;
        return Ok(None);
    }
    let end = sqlx::query_scalar(END).bind(after).bind(ARCHIVE_PAGE - 1);
    let end: Option<i64> = end.fetch_optional(transaction.connection()).await?;
    let until = end.unwrap_or(i64::MAX);
    let remove = sqlx::query(REMOVE).bind(after).bind(until).bind(&*source.name).bind(whole_millis(keep));
    let removed = remove.execute(transaction.connection()).await?.rows_affected();
    let left = sqlx::query_scalar(LEFT).bind(after).bind(until).bind(&*source.name);
    let left: Option<i64> = left.fetch_optional(transaction.connection()).await?;
    commit(transaction).await?;
    Ok(Some(Expired::of(after, end, left, removed)))
}
