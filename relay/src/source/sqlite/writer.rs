//! Deleting and parking, each batch in a short transaction behind the file's lock.

use async_trait::async_trait;
use barid::store::held::{CommitError, HeldTransaction};
use sqlx::Sqlite;

use super::{SqliteSource, lease};
use crate::{
    failpoint::{self, Point},
    lane::{Park, RowId},
    lease::Epoch,
    source::{SourceError, Writer, held_keys_asked},
};

const DELETE: &str = "DELETE FROM outbox WHERE seq = ? AND id = ?";

const COPY: &str = "INSERT OR IGNORE INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, type, \
      payload, headers, tracingspancontext, created_at, state, attempts, last_error) \
    SELECT ?, id, seq, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext, created_at, \
      ?, ?, ? FROM outbox WHERE seq = ? AND id = ?";

const HELD: &str = "SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = ? AND aggregateid IS NOT NULL AND state <> 'skipped' LIMIT ?";

pub(super) struct SqliteWriter {
    source: SqliteSource,
}

impl SqliteWriter {
    pub(super) fn new(source: SqliteSource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn delete(&mut self, rows: &[RowId]) -> Result<u64, SourceError> {
        let deleted = async {
            let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
            let mut deleted = 0;
            for row in rows {
                let one = sqlx::query(DELETE).bind(row.seq).bind(row.id);
                deleted += one.execute(transaction.connection()).await?.rows_affected();
            }
            failpoint::reached(Point::AfterMarkBeforeCommit);
            commit(transaction).await?;
            Ok(deleted)
        };
        self.source.at().bounded("deleting confirmed rows", deleted).await
    }

    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let parked = async {
            let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
            if !lease::is_newest(&self.source, &mut transaction, epoch).await? {
                transaction.rollback().await?;
                return Ok(false);
            }
            for park in rows {
                let copy =
                    sqlx::query(COPY).bind(&*self.source.name).bind(park.state.as_str()).bind(park.attempts);
                let copy = copy.bind(&park.reason).bind(park.row.seq).bind(park.row.id);
                copy.execute(transaction.connection()).await?;
                let delete = sqlx::query(DELETE).bind(park.row.seq).bind(park.row.id);
                delete.execute(transaction.connection()).await?;
            }
            commit(transaction).await?;
            Ok(true)
        };
        let doing = "parking rows";
        if self.source.at().bounded(doing, parked).await? {
            return Ok(());
        }
        Err(lease::fenced(&self.source, doing, epoch).await)
    }

    async fn held_keys(&mut self) -> Result<Vec<(String, String)>, SourceError> {
        let at = self.source.at();
        let asked = sqlx::query_as(HELD)
            .bind(&*self.source.name)
            .bind(held_keys_asked())
            .fetch_all(&self.source.pool);
        at.not_too_many(at.bounded("loading held keys", asked).await?)
    }
}

/// Both kinds of failure mean the same here: do it again.
pub(super) async fn commit(transaction: HeldTransaction<Sqlite>) -> Result<(), sqlx::Error> {
    transaction.commit().await.map_err(|error| match error {
        CommitError::NotCommitted(cause) | CommitError::Unknown(cause) => cause,
        other => sqlx::Error::Protocol(other.to_string()),
    })
}
