//! The tables `saga` and `saga_correlation` on PostgreSQL.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, Row, error::DatabaseError, postgres::PgRow};

use super::text::Text;
use crate::store::{
    saga::{SagaRow, SagaRows},
    shared,
    statement::Statement,
};

impl SagaRows for Postgres {
    const NOW: &'static str = "clock_timestamp()";
    const FOR_UPDATE: &'static str = " FOR UPDATE OF s";

    fn purge(completed_for: Duration, rows_max: u32) -> Statement {
        // `now()` and not the clock: only a value that is fixed for the statement can be looked up in the index.
        Statement::new("DELETE FROM saga WHERE id IN(SELECT id FROM saga WHERE completed_at<now()-")
            .int(i64::try_from(completed_for.as_micros()).unwrap_or(i64::MAX))
            .sql("*interval '1 microsecond' ORDER BY completed_at LIMIT ")
            .int(rows_max.into())
            .sql(")")
    }

    fn row(row: &PgRow) -> Result<SagaRow, sqlx::Error> {
        Ok(SagaRow {
            id: row.try_get(0)?,
            revision: row.try_get(1)?,
            data: row.try_get(2)?,
            timeouts: row.try_get(3)?,
            property: row.try_get(4)?,
            value: row.try_get(5)?,
        })
    }

    /// serialization_failure, deadlock_detected.
    fn lost_a_race(answer: &dyn DatabaseError) -> bool {
        answer.code().is_some_and(|code| matches!(&*code, "40001" | "40P01"))
    }

    async fn ask(
        connection: &mut PgConnection,
        statement: &Statement,
    ) -> Result<(u64, Vec<PgRow>), sqlx::Error> {
        let (result, rows) = shared::ask::<Self, Text>(connection, statement).await?;
        Ok((result.rows_affected(), rows))
    }
}
