//! The decision log, for whoever looks after it: what [`LogCare`] promises, in SQL.

use std::time::Duration;

use async_trait::async_trait;

use super::log::{SqlDecisionLog, left, millis};
use crate::{
    distributed::{
        Gid,
        log::{Known, LogCare, LogError},
    },
    store::{backend::Backend, statement::Statement},
};

impl<DB: Backend> SqlDecisionLog<DB> {
    /// The transactions that a condition picks, begun longer ago than `age` and the oldest first.
    async fn older(&self, select: Statement, count: u32, age: Duration) -> Result<Vec<Known>, LogError> {
        let select = DB::later(select.sql(" AND started_at<="), -millis(age));
        let mut found = Vec::new();
        for gid in self.gids(select.sql(" ORDER BY started_at LIMIT ").int(count.into())).await? {
            found.extend(self.known(gid).await?);
        }
        Ok(found)
    }
}

#[async_trait]
impl<DB: Backend> LogCare for SqlDecisionLog<DB> {
    async fn keep_prepared(&self, gid: Gid, wait: Duration, read_only: &[u16]) -> Result<bool, LogError> {
        for place in read_only {
            self.ask(&left::<DB>(gid, *place)).await?;
        }
        let update = Statement::new("UPDATE dtx_transaction SET status='prepared',prepared_at=").sql(DB::NOW);
        let update = DB::later(update.sql(",deadline="), millis(wait));
        let update = DB::later(update.sql(",next_run_at="), millis(wait));
        let update = update.sql(" WHERE decision IS NULL AND finished_at IS NULL AND gid=");
        Ok(self.ask(&update.text(gid.to_string())).await?.0 == 1)
    }

    async fn stale(&self, count: u32, age: Duration) -> Result<Vec<Known>, LogError> {
        let select = Statement::new(
            "SELECT gid FROM dtx_transaction WHERE finished_at IS NULL AND decision IS NULL AND deadline<=",
        );
        self.older(select.sql(DB::NOW), count, age).await
    }

    async fn incomplete(&self, count: u32, age: Duration) -> Result<Vec<Known>, LogError> {
        let select = Statement::new(
            "SELECT gid FROM dtx_transaction WHERE finished_at IS NULL AND(decision IS NOT NULL OR deadline<=",
        );
        self.older(select.sql(DB::NOW).sql(")"), count, age).await
    }

    async fn abandon(&self, gid: Gid, why: &str) -> Result<bool, LogError> {
        let update = Statement::new("UPDATE dtx_transaction SET status='heuristic_hazard',finished_at=");
        let update = update.sql(DB::NOW).sql(",error_message=").text(why);
        let update = update.sql(" WHERE decision IS NOT NULL AND finished_at IS NULL AND gid=");
        Ok(self.ask(&update.text(gid.to_string())).await?.0 == 1)
    }

    async fn purge_audit(&self, kept_for: Duration) -> Result<u64, LogError> {
        let delete = DB::later(Statement::new("DELETE FROM dtx_audit WHERE at<"), -millis(kept_for));
        Ok(self.ask(&delete).await?.0)
    }
}
