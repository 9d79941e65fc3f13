//! The tables `saga` and `saga_correlation` on SQLite.

use std::time::Duration;

use sqlx::{Row, Sqlite, SqliteConnection, error::DatabaseError, sqlite::SqliteRow};

use super::text::Text;
use crate::store::{
    saga::{SagaRow, SagaRows},
    shared,
    statement::Statement,
};

impl SagaRows for Sqlite {
    const NOW: &'static str = "CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)";
    /// Every unit of work is the only writer from its beginning.
    const FOR_UPDATE: &'static str = "";

    fn purge(completed_for: Duration, rows_max: u32) -> Statement {
        Statement::new("DELETE FROM saga WHERE id IN(SELECT id FROM saga WHERE completed_at<")
            .sql(Self::NOW)
            .sql("-")
            .int(i64::try_from(completed_for.as_millis()).unwrap_or(i64::MAX))
            .sql(" ORDER BY completed_at LIMIT ")
            .int(rows_max.into())
            .sql(")")
    }

    fn row(row: &SqliteRow) -> Result<SagaRow, sqlx::Error> {
        Ok(SagaRow {
            id: row.try_get(0)?,
            revision: row.try_get(1)?,
            data: row.try_get(2)?,
            timeouts: row.try_get(3)?,
            property: row.try_get(4)?,
            value: row.try_get(5)?,
        })
    }

    /// There is one writer at a time.
    fn lost_a_race(_: &dyn DatabaseError) -> bool {
        false
    }

    async fn ask(
        connection: &mut SqliteConnection,
        statement: &Statement,
    ) -> Result<(u64, Vec<SqliteRow>), sqlx::Error> {
        let (result, rows) = shared::ask::<Self, Text>(connection, statement).await?;
        Ok((result.rows_affected(), rows))
    }
}
