//! Archiving what was confirmed, and removing what has been there for long enough.

use sqlx::{Connection, Executor, PgConnection, raw_sql};
use uuid::Uuid;

use crate::{
    archive::Expired,
    lane::RowId,
    lease::Epoch,
    source::{ARCHIVE_PAGE, whole_millis},
};

/// As PARK of the writer: one statement, so one transaction, under the lock of the epoch. Only what was still in the outbox
/// gets there, and in its order.
const ARCHIVE: &str = "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $4 FOR SHARE), \
    d AS (DELETE FROM outbox o USING fence, unnest($2::bigint[], $3::uuid[]) AS r (seq, id) \
      WHERE o.seq = r.seq AND o.id = r.id RETURNING o.*), \
    i AS (INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, aggregateid, type, payload, headers, \
        tracingspancontext) \
      SELECT $1, id, seq, created_at, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext FROM d \
      ORDER BY seq) \
    SELECT EXISTS (SELECT FROM fence), (SELECT count(*) FROM d)";

/// The planner takes a range without known bounds for a large part of the table, and reads all of it.
const BY_INDEX: &str = "SET LOCAL enable_seqscan = off";

const END: &str =
    "SELECT position FROM relay_archive WHERE position > $1 ORDER BY position LIMIT 1 OFFSET $2";

const REMOVE: &str = "DELETE FROM relay_archive WHERE position > $1 AND position <= $2 AND source = $3 \
    AND published_at < clock_timestamp() - $4 * interval '1 millisecond'";

const LEFT: &str = "SELECT position FROM relay_archive WHERE position > $1 AND position <= $2 AND source = $3 \
    ORDER BY position LIMIT 1";

/// Asked last, so that whoever renews the lease waits for one COMMIT and not for locks of rows.
const FENCE: &str = "SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $2 FOR SHARE";

/// How many rows were moved; none, unless the epoch is the newest.
pub(super) async fn archive(
    session: &mut PgConnection,
    name: &str,
    epoch: Epoch,
    rows: &[RowId],
) -> Result<Option<u64>, sqlx::Error> {
    // In the order of the index, and so of the pages.
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    let (seqs, ids): (Vec<i64>, Vec<Uuid>) = rows.iter().map(|row| (row.seq, row.id)).unzip();
    let call = sqlx::query_as(ARCHIVE).bind(name).bind(seqs).bind(ids).bind(epoch.0);
    let (newest, moved): (bool, i64) = call.fetch_one(session).await?;
    Ok(newest.then_some(moved.unsigned_abs()))
}

/// One step; none, unless the epoch is the newest. Dropped in the middle it rolls back before the session is used again.
pub(super) async fn expire(
    session: &mut PgConnection,
    name: &str,
    epoch: Epoch,
    keep: std::time::Duration,
    after: i64,
) -> Result<Option<Expired>, sqlx::Error> {
    let mut transaction = Connection::begin(session).await?;
    transaction.execute(raw_sql(BY_INDEX)).await?;
    let end = sqlx::query_scalar(END).bind(after).bind(ARCHIVE_PAGE - 1);
    let end: Option<i64> = end.fetch_optional(&mut *transaction).await?;
    let until = end.unwrap_or(i64::MAX);
    let remove = sqlx::query(REMOVE).bind(after).bind(until).bind(name).bind(whole_millis(keep));
    let removed = remove.execute(&mut *transaction).await?.rows_affected();
    let left = sqlx::query_scalar(LEFT).bind(after).bind(until).bind(name);
    let left: Option<i64> = left.fetch_optional(&mut *transaction).await?;
    let fence = sqlx::query(FENCE).bind(name).bind(epoch.0);
    if fence.fetch_optional(&mut *transaction).await?.is_none() {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    Ok(Some(Expired::of(after, end, left, removed)))
}
