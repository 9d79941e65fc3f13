//! The rows of `result` on PostgreSQL.

use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use crate::store::results::{ON_CONFLICT_UNLESS_SUCCEEDED, ResultRow, ResultRows};

impl ResultRows for Postgres {
    const UNLESS_SUCCEEDED: &'static str = ON_CONFLICT_UNLESS_SUCCEEDED;
    const UNLESS_THERE: &'static str = " ON CONFLICT DO NOTHING";

    async fn read_result(
        connection: &mut PgConnection,
        message_id: Uuid,
    ) -> Result<Option<ResultRow>, sqlx::Error> {
        let read = "SELECT state,name,content_type,data,problem::text,bus FROM result WHERE message_id=$1";
        let Some(row) = sqlx::query(read).bind(message_id).fetch_optional(connection).await? else {
            return Ok(None);
        };
        Ok(Some(ResultRow {
            message_id,
            state: row.try_get(0)?,
            name: row.try_get(1)?,
            content_type: row.try_get(2)?,
            data: row.try_get::<Option<Vec<u8>>, _>(3)?.map(Into::into),
            problem: row.try_get(4)?,
            bus: row.try_get(5)?,
        }))
    }
}
