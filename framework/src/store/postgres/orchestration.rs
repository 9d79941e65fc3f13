//! The table `orchestration_marker` on PostgreSQL.

use sqlx::{PgConnection, Postgres};

use crate::store::{
    backend::Recorded,
    orchestration::{Marker, MarkerRows},
    saga::SagaRows,
    statement::Statement,
};

impl MarkerRows for Postgres {
    async fn insert_marker(connection: &mut PgConnection, marker: &Marker) -> Result<Recorded, sqlx::Error> {
        // Only when nobody else is at this step: whoever is is not waited for.
        let insert = Statement::new("INSERT INTO orchestration_marker(id,step,op,state)SELECT ");
        let insert = marker.values(insert).sql(" WHERE pg_try_advisory_xact_lock(hashtextextended(");
        let insert = insert.text(&marker.step).sql(",hashtextextended(").text(&marker.id);
        let insert = insert.sql(",0)))ON CONFLICT DO NOTHING");
        if Self::ask(connection, &insert).await?.0 == 1 {
            return Ok(Recorded::Fresh);
        }
        let find = Statement::new("SELECT 1 FROM orchestration_marker WHERE id=").text(&marker.id);
        let find = find.sql(" AND step=").text(&marker.step).sql(" AND op=").text(marker.op);
        let (_, rows) = Self::ask(connection, &find).await?;
        Ok(if rows.is_empty() { Recorded::InProgress } else { Recorded::Duplicate })
    }
}
