//! The table `schedule` on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use uuid::Uuid;

use crate::store::{
    held::{CommitError, HeldTransaction},
    schedule::{Moved, SCHEDULE_COLUMNS, ScheduleRows},
    shared::OUTBOX_COLUMNS,
    statement::Statement,
};

const NEXT_DUE: &str = "SELECT TIMESTAMPDIFF(MICROSECOND,UTC_TIMESTAMP(6),MIN(due_at)) FROM schedule";

/// READ COMMITTED locks the rows that it finds and not the gaps between them: nobody who schedules waits for it.
const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;START TRANSACTION";

/// The lock is the session's, not the transaction's; its name holds the database's, because such names are the server's.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('barid-schedule:',SHA1(DATABASE())),0)";

/// The next instance may move only when our rows are in the outbox for all to see.
const COMMIT: &str = "COMMIT;DO RELEASE_LOCK(CONCAT('barid-schedule:',SHA1(DATABASE())))";

const DUE: &str = "SELECT id FROM schedule WHERE due_at<=UTC_TIMESTAMP(6) ORDER BY due_at,id LIMIT ? FOR UPDATE SKIP LOCKED";

impl ScheduleRows for MySql {
    const REPLACE: &'static str = "ON DUPLICATE KEY UPDATE due_at=VALUES(due_at),message_id=VALUES(message_id),destination=VALUES(destination),\
         aggregatetype=VALUES(aggregatetype),aggregateid=VALUES(aggregateid),type=VALUES(type),payload=VALUES(payload),\
         headers=VALUES(headers),tracingspancontext=VALUES(tracingspancontext)";

    fn due_in(insert: Statement, micros: i64) -> Statement {
        insert.sql("UTC_TIMESTAMP(6)+INTERVAL ").int(micros).sql(" MICROSECOND")
    }

    fn due_at(insert: Statement, micros: i64) -> Statement {
        insert.sql("CAST('1970-01-01' AS DATETIME(6))+INTERVAL ").int(micros).sql(" MICROSECOND")
    }

    async fn next_due(connection: &mut MySqlConnection) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar(NEXT_DUE).fetch_one(connection).await
    }

    async fn move_due(pool: &MySqlPool, rows_max: u32) -> Result<Moved, sqlx::Error> {
        // Dropped anywhere in between it closes the connection, which ends the transaction and then the lock.
        let mut held = HeldTransaction::<MySql>::begin(pool, BEGIN).await?;
        let mine: Option<i64> = sqlx::query_scalar(LOCK).fetch_one(held.connection()).await?;
        if mine != Some(1) {
            held.rollback().await?;
            return Ok(Moved::Busy);
        }
        let due: Vec<Uuid> = sqlx::query_scalar(DUE).bind(rows_max).fetch_all(held.connection()).await?;
        if !due.is_empty() {
            let insert = format!(
                "INSERT INTO outbox({OUTBOX_COLUMNS})SELECT {SCHEDULE_COLUMNS} FROM schedule WHERE id IN("
            );
            by_ids(insert, &due, ")ORDER BY due_at,schedule.id").build().execute(held.connection()).await?;
            let delete = "DELETE FROM schedule WHERE id IN(".to_owned();
            by_ids(delete, &due, ")").build().execute(held.connection()).await?;
        }
        let (CommitError::NotCommitted(error) | CommitError::Unknown(error)) =
            match held.commit_by(COMMIT).await {
                Ok(()) => return Ok(Moved::Rows(due.len() as u64)),
                Err(error) => error,
            };
        Err(error)
    }
}

fn by_ids(before: String, ids: &[Uuid], after: &'static str) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(before);
    let mut list = query.separated(",");
    for id in ids {
        list.push_bind(*id);
    }
    query.push(after);
    query
}
