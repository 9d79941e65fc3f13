//! The table `orchestration_marker` on SQLite.

use sqlx::{Sqlite, SqliteConnection};

use crate::store::{
    backend::Recorded,
    orchestration::{Marker, MarkerRows},
    saga::SagaRows,
    statement::Statement,
};

impl MarkerRows for Sqlite {
    async fn insert_marker(
        connection: &mut SqliteConnection,
        marker: &Marker,
    ) -> Result<Recorded, sqlx::Error> {
        // The only writer: whoever was at the step has ended.
        let insert = Statement::new("INSERT INTO orchestration_marker(id,step,op,state)VALUES(");
        let insert = marker.values(insert).sql(")ON CONFLICT DO NOTHING");
        let fresh = Self::ask(connection, &insert).await?.0 == 1;
        Ok(if fresh { Recorded::Fresh } else { Recorded::Duplicate })
    }
}
