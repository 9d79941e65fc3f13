//! The table `schedule` on PostgreSQL.

use sqlx::{PgConnection, PgPool, Postgres};

use crate::store::{
    schedule::{Moved, ScheduleRows},
    statement::Statement,
};

const NEXT_DUE: &str = "SELECT ceil(extract(epoch FROM min(due_at)-now())*1000000)::bigint FROM schedule";

/// One statement, and so one transaction. The lock is held until it has committed. `now()` and not the clock: only a value
/// that is fixed for the statement can be looked up in the index.
const MOVE_DUE: &str = "
WITH mover AS MATERIALIZED (
  SELECT pg_try_advisory_xact_lock(hashtextextended('barid-schedule', 'schedule'::regclass::oid::bigint)) AS mine),
due AS MATERIALIZED (
  SELECT id FROM schedule WHERE (SELECT mine FROM mover) AND due_at <= now()
  ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM schedule s USING due WHERE s.id = due.id RETURNING s.*),
moved AS (
  INSERT INTO outbox (id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext)
  SELECT message_id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext
  FROM gone ORDER BY due_at, gone.id)
SELECT CASE WHEN mine THEN (SELECT count(*) FROM gone) END FROM mover";

impl ScheduleRows for Postgres {
    const REPLACE: &'static str = "ON CONFLICT(id)DO UPDATE SET due_at=excluded.due_at,message_id=excluded.message_id,\
         destination=excluded.destination,aggregatetype=excluded.aggregatetype,aggregateid=excluded.aggregateid,\
         type=excluded.type,payload=excluded.payload,headers=excluded.headers,\
         tracingspancontext=excluded.tracingspancontext";

    fn due_in(insert: Statement, micros: i64) -> Statement {
        insert.sql("clock_timestamp()+").int(micros).sql("*interval '1 microsecond'")
    }

    fn due_at(insert: Statement, micros: i64) -> Statement {
        insert.sql("timestamptz 'epoch'+").int(micros).sql("*interval '1 microsecond'")
    }

    async fn next_due(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar(NEXT_DUE).fetch_one(connection).await
    }

    async fn move_due(pool: &PgPool, rows_max: u32) -> Result<Moved, sqlx::Error> {
        let moved: Option<i64> =
            sqlx::query_scalar(MOVE_DUE).bind(i64::from(rows_max)).fetch_one(pool).await?;
        Ok(moved.map_or(Moved::Busy, |rows| Moved::Rows(rows.unsigned_abs())))
    }
}
