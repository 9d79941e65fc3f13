//! What became of a message, kept in the database of the unit of work for those who poll for it.
//!
//! A success is written by the closing text of the unit of work, a failure when the message is given up. A success is final;
//! a failure is replaced when the dead letter is handled after all.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Database;
use uuid::Uuid;

use super::{backend::Backend, kept::Kept, statement::Statement, unit::bounded};
use crate::{
    error::{Error, Result},
    limits,
};

/// The states of a row, as the table has them.
pub(crate) const ACCEPTED: &str = "accepted";
pub(crate) const SUCCEEDED: &str = "succeeded";
pub(crate) const FAILED: &str = "failed";

/// [`ResultRows::UNLESS_SUCCEEDED`] where there is ON CONFLICT.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) const ON_CONFLICT_UNLESS_SUCCEEDED: &str = " ON CONFLICT(message_id)DO UPDATE SET state=excluded.state,name=excluded.name,content_type=excluded.content_type,\
     data=excluded.data,problem=excluded.problem,bus=excluded.bus,handled_at=excluded.handled_at \
     WHERE result.state<>'succeeded'";

/// One row of the table `result`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultRow {
    /// The message.
    pub message_id: Uuid,
    /// `accepted`, `succeeded` or `failed`.
    pub state: String,
    /// The name of the answer.
    pub name: Option<String>,
    /// How the answer is encoded.
    pub content_type: Option<String>,
    /// The answer.
    pub data: Option<Bytes>,
    /// Problem details, as JSON.
    pub problem: Option<String>,
    /// The bus that wrote it.
    pub bus: String,
}

impl ResultRow {
    /// A row without data.
    pub(crate) fn new(message_id: Uuid, state: &str, bus: &str) -> Self {
        Self {
            message_id,
            state: state.to_owned(),
            name: None,
            content_type: None,
            data: None,
            problem: None,
            bus: bus.to_owned(),
        }
    }
}

/// The rows of the table `result`.
pub trait ResultRows: Database {
    /// What follows the values of an insert that changes a row unless it succeeded already.
    const UNLESS_SUCCEEDED: &'static str;
    /// What follows the values of an insert that changes no row.
    const UNLESS_THERE: &'static str;

    /// The row of a message.
    fn read_result(
        connection: &mut Self::Connection,
        message_id: Uuid,
    ) -> impl Future<Output = Result<Option<ResultRow>, sqlx::Error>> + Send;
}

/// The results of one database.
#[async_trait]
pub(crate) trait ResultStore: Send + Sync {
    /// The statement that writes `row` with the closing text of a unit of work.
    fn statement(&self, row: &ResultRow) -> Statement;
    /// Writes `row` by itself.
    async fn write(&self, row: &ResultRow) -> Result<()>;
    /// The row of a message.
    async fn read(&self, message_id: Uuid) -> Result<Option<ResultRow>>;
}

pub(crate) struct SqlResults<DB: Backend>(pub(crate) Arc<Kept<DB>>);

#[async_trait]
impl<DB: Backend> ResultStore for SqlResults<DB> {
    fn statement(&self, row: &ResultRow) -> Statement {
        let statement =
            Statement::new("INSERT INTO result(message_id,state,name,content_type,data,problem,bus)VALUES(")
                .id(row.message_id)
                .sql(",")
                .text(&row.state)
                .sql(",")
                .opt_text(row.name.as_deref())
                .sql(",")
                .opt_text(row.content_type.as_deref())
                .sql(",")
                .bytes(row.data.clone())
                .sql(",");
        let statement = match &row.problem {
            Some(problem) => statement.json(problem),
            None => statement.sql("NULL"),
        };
        let on_conflict = if row.state == ACCEPTED { DB::UNLESS_THERE } else { DB::UNLESS_SUCCEEDED };
        statement.sql(",").text(&row.bus).sql(")").sql(on_conflict)
    }

    async fn write(&self, row: &ResultRow) -> Result<()> {
        let statement = self.statement(row);
        let writer = tokio::time::timeout(limits::CALL_TIMEOUT, DB::writer(self.0.pool())).await;
        let _writer = writer.map_err(|_| Error::new("somebody else keeps writing to the database"))?;
        bounded(async {
            let mut connection = self.0.acquire().await?;
            Ok(DB::run(&mut connection, &statement).await.map(drop)?)
        })
        .await
        .map_err(|error| error.context("writing a result"))
    }

    async fn read(&self, message_id: Uuid) -> Result<Option<ResultRow>> {
        bounded(async {
            let mut connection = self.0.acquire().await?;
            Ok(DB::read_result(&mut connection, message_id).await?)
        })
        .await
        .map_err(|error| error.context("reading a result"))
    }
}
