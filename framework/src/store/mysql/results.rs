//! The rows of `result` on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection, Row};
use uuid::Uuid;

use crate::store::results::{ResultRow, ResultRows};

impl ResultRows for MySql {
    const UNLESS_SUCCEEDED: &'static str = " ON DUPLICATE KEY UPDATE name=IF(state='succeeded',name,VALUES(name)),\
         content_type=IF(state='succeeded',content_type,VALUES(content_type)),\
         data=IF(state='succeeded',data,VALUES(data)),problem=IF(state='succeeded',problem,VALUES(problem)),\
         bus=IF(state='succeeded',bus,VALUES(bus)),handled_at=IF(state='succeeded',handled_at,VALUES(handled_at)),\
         state=IF(state='succeeded',state,VALUES(state))";
    const UNLESS_THERE: &'static str = " ON DUPLICATE KEY UPDATE message_id=VALUES(message_id)";

    async fn read_result(
        connection: &mut MySqlConnection,
        message_id: Uuid,
    ) -> Result<Option<ResultRow>, sqlx::Error> {
        let read = "SELECT state,name,content_type,data,problem,bus FROM result WHERE message_id=?";
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
