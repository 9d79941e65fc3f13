//! What becomes of sagas that are over, in SQL.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    log::{SqlSagaLog, of},
    rows,
};
use crate::{
    orchestration::{
        OrchestrationError, SagaId,
        book::unreadable,
        log::{SagaCare, Stored},
    },
    store::{backend::Backend, distributed::log::millis, statement::Statement},
};

#[async_trait]
impl<DB: Backend> SagaCare for SqlSagaLog<DB> {
    async fn finished(&self, count: u32, kept_for: Duration) -> Result<Vec<Stored>, OrchestrationError> {
        let select =
            Statement::new("SELECT id FROM orchestration WHERE finished_at IS NOT NULL AND finished_at<");
        let select = DB::later(select, -millis(kept_for)).sql(" ORDER BY finished_at LIMIT ");
        let mut found = Vec::new();
        for id in self.ids(&select.int(count.into())).await? {
            found.extend(self.read(id).await?.1);
        }
        Ok(found)
    }

    async fn purge(&self, id: SagaId) -> Result<(), OrchestrationError> {
        let delete = Statement::new("DELETE FROM orchestration WHERE finished_at IS NOT NULL AND id=");
        Ok(self.desk.ask(&delete.text(id.to_string())).await.map(drop)?)
    }

    async fn stranded(
        &self,
        defined: &[(String, u32)],
        late: Duration,
    ) -> Result<Vec<(String, u32)>, OrchestrationError> {
        let select = Statement::new("SELECT DISTINCT name,version FROM orchestration WHERE next_run_at<");
        let select = rows::due::<DB>(DB::later(select, -millis(late)).sql(" AND "));
        let select = match defined {
            [] => select,
            _ => of(select.sql(" AND NOT("), defined).sql(")"),
        };
        let (_, found) = self.desk.ask(&select.sql(" ORDER BY name,version LIMIT 100")).await?;
        let one = |row: &DB::Row| {
            let name = DB::text(row, 0)?.unwrap_or_default();
            Ok::<_, sqlx::Error>((name, u32::try_from(DB::int(row, 1)?).unwrap_or(u32::MAX)))
        };
        found.iter().map(one).collect::<Result<_, _>>().map_err(unreadable)
    }
}
