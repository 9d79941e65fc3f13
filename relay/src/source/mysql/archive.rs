//! Archiving what was confirmed, and removing what has been there for long enough.

use sqlx::{AssertSqlSafe, Executor, MySqlConnection};

use super::writer::{begin, commit_if_newest, delete, these};
use crate::{
    archive::Expired,
    lane::RowId,
    lease::Epoch,
    source::{ARCHIVE_PAGE, whole_millis},
};

/// What follows are the rows. They are locked, so that what is deleted next is what was copied here.
const COPY: &str = "INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, aggregateid, `type`, \
      payload, headers, tracingspancontext) \
    SELECT ?, id, seq, created_at, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext \
    FROM outbox";

const END: &str = "SELECT position FROM relay_archive WHERE position > ? ORDER BY position LIMIT 1 OFFSET ?";

const REMOVE: &str = "DELETE FROM relay_archive WHERE position > ? AND position <= ? AND source = ? \
    AND published_at < UTC_TIMESTAMP(6) - INTERVAL ? * 1000 MICROSECOND";

const LEFT: &str = "SELECT position FROM relay_archive WHERE position > ? AND position <= ? AND source = ? \
    ORDER BY position LIMIT 1";

/// How many rows were moved; none, unless the epoch is the newest. What is cut off at the end of the connection rolls back.
pub(super) async fn archive(
    session: &mut MySqlConnection,
    name: &str,
    epoch: Epoch,
    rows: &[RowId],
) -> Result<Option<u64>, sqlx::Error> {
    begin(session).await?;
    let copy = AssertSqlSafe(format!("{COPY} WHERE {} ORDER BY seq FOR UPDATE", these(rows.to_vec())));
    // Its text is another one each time: the server need not keep it.
    let copied = sqlx::query(copy).persistent(false).bind(name).execute(&mut *session).await?;
    let deleted = session.execute(sqlx::raw_sql(AssertSqlSafe(delete(rows.to_vec())))).await?;
    if copied.rows_affected() != deleted.rows_affected() {
        session.execute("ROLLBACK").await?;
        let (copied, deleted) = (copied.rows_affected(), deleted.rows_affected());
        return Err(sqlx::Error::Protocol(format!(
            "{copied} rows were copied into relay_archive and {deleted} deleted from outbox: rolled back"
        )));
    }
    Ok(commit_if_newest(session, name, epoch).await?.then_some(deleted.rows_affected()))
}

/// One step; none, unless the epoch is the newest. Cut off like [`archive`].
pub(super) async fn expire(
    session: &mut MySqlConnection,
    name: &str,
    epoch: Epoch,
    keep: std::time::Duration,
    after: i64,
) -> Result<Option<Expired>, sqlx::Error> {
    begin(session).await?;
    let end = sqlx::query_scalar(END).bind(after).bind(ARCHIVE_PAGE - 1);
    let end: Option<i64> = end.fetch_optional(&mut *session).await?;
    let until = end.unwrap_or(i64::MAX);
    let remove = sqlx::query(REMOVE).bind(after).bind(until).bind(name).bind(whole_millis(keep));
    let removed = remove.execute(&mut *session).await?.rows_affected();
    let left = sqlx::query_scalar(LEFT).bind(after).bind(until).bind(name);
    let left: Option<i64> = left.fetch_optional(&mut *session).await?;
    let newest = commit_if_newest(session, name, epoch).await?;
    Ok(newest.then(|| Expired::of(after, end, left, removed)))
}
