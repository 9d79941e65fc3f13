//! The table `schedule` on SQLite. Who moves has the right to write, so nobody else does.

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, SqlitePool};

use crate::store::{
    held::{CommitError, HeldTransaction},
    schedule::{Moved, SCHEDULE_COLUMNS, ScheduleRows},
    shared::OUTBOX_COLUMNS,
    statement::Statement,
};

const NOW: &str = "SELECT CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)";

const NEXT_DUE: &str =
    "SELECT (min(due_at)-CAST((julianday('now')-2440587.5)*86400000 AS INTEGER))*1000 FROM schedule";

const DELETE: &str =
    "DELETE FROM schedule WHERE id IN(SELECT id FROM schedule WHERE due_at<=? ORDER BY due_at,id LIMIT ?)";

impl ScheduleRows for Sqlite {
    const REPLACE: &'static str = "ON CONFLICT(id)DO UPDATE SET due_at=excluded.due_at,message_id=excluded.message_id,\
         destination=excluded.destination,aggregatetype=excluded.aggregatetype,aggregateid=excluded.aggregateid,\
         type=excluded.type,payload=excluded.payload,headers=excluded.headers,\
         tracingspancontext=excluded.tracingspancontext";

    fn due_in(insert: Statement, micros: i64) -> Statement {
        insert.sql("CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)+").int(millis(micros))
    }

    fn due_at(insert: Statement, micros: i64) -> Statement {
        insert.int(millis(micros))
    }

    async fn next_due(connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar(NEXT_DUE).fetch_one(connection).await
    }

    async fn move_due(pool: &SqlitePool, rows_max: u32) -> Result<Moved, sqlx::Error> {
        let mut held = HeldTransaction::<Sqlite>::begin_immediate(pool).await?;
        // Read once: both statements mean the same rows then.
        let now: i64 = sqlx::query_scalar(NOW).fetch_one(held.connection()).await?;
        let insert = format!(
            "INSERT INTO outbox({OUTBOX_COLUMNS})SELECT {SCHEDULE_COLUMNS} FROM schedule WHERE due_at<=? \
             ORDER BY due_at,id LIMIT ?"
        );
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(now).bind(rows_max);
        let moved = insert.execute(held.connection()).await?.rows_affected();
        sqlx::query(DELETE).bind(now).bind(rows_max).execute(held.connection()).await?;
        match held.commit().await {
            Ok(()) => Ok(Moved::Rows(moved)),
            Err(CommitError::NotCommitted(error) | CommitError::Unknown(error)) => Err(error),
        }
    }
}

/// Rounded up: never earlier than was asked for.
fn millis(micros: i64) -> i64 {
    micros / 1_000 + i64::from(micros % 1_000 > 0)
}
