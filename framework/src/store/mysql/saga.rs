//! The tables `saga` and `saga_correlation` on MariaDB and MySQL.

use std::time::Duration;

use sqlx::{
    MySql, MySqlConnection, Row,
    error::DatabaseError,
    mysql::{MySqlDatabaseError, MySqlRow},
};

use super::text::Text;
use crate::store::{
    saga::{SagaRow, SagaRows},
    shared,
    statement::Statement,
};

impl SagaRows for MySql {
    const NOW: &'static str = "UTC_TIMESTAMP(6)";
    const FOR_UPDATE: &'static str = " FOR UPDATE";

    fn purge(completed_for: Duration, rows_max: u32) -> Statement {
        Statement::new("DELETE FROM saga WHERE completed_at<UTC_TIMESTAMP(6)-INTERVAL ")
            .int(i64::try_from(completed_for.as_micros()).unwrap_or(i64::MAX))
            .sql(" MICROSECOND ORDER BY completed_at LIMIT ")
            .int(rows_max.into())
    }

    fn row(row: &MySqlRow) -> Result<SagaRow, sqlx::Error> {
        let value: Option<Vec<u8>> = row.try_get(5)?;
        let value = value.map(String::from_utf8).transpose();
        Ok(SagaRow {
            id: row.try_get(0)?,
            revision: row.try_get(1)?,
            data: row.try_get(2)?,
            timeouts: row.try_get(3)?,
            property: row.try_get(4)?,
            value: value.map_err(|error| sqlx::Error::Decode(error.into()))?,
        })
    }

    /// ER_LOCK_DEADLOCK, ER_CHECKREAD (the row has changed since the snapshot was taken).
    fn lost_a_race(answer: &dyn DatabaseError) -> bool {
        answer
            .try_downcast_ref::<MySqlDatabaseError>()
            .is_some_and(|answer| matches!(answer.number(), 1213 | 1020))
    }

    async fn ask(
        connection: &mut MySqlConnection,
        statement: &Statement,
    ) -> Result<(u64, Vec<MySqlRow>), sqlx::Error> {
        let (result, rows) = shared::ask::<Self, Text>(connection, statement).await?;
        Ok((result.rows_affected(), rows))
    }
}
