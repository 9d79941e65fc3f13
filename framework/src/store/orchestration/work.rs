//! A step whose effects are rows of a database: its marker commits with them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::Pool;

use super::marker::{self, Action};
use crate::{
    SqlUnitOfWork,
    distributed::crash,
    error::{Error, Result},
    orchestration::{Abilities, Call, Fault, SagaId, StepContext, StepHandler, Takes, Work, encoded},
    outbox::Outbox,
    store::{
        backend::{Backend, Recorded},
        connection::UnitConnection,
        kept::Kept,
        statement::{Opening, Statement, Writes},
        unit::{SqlUnit, bounded},
    },
    unit_of_work::{CommitError, Unit},
};

type Does<D, DB, T> =
    Arc<dyn for<'c> Fn(StepContext<D>, &'c mut UnitConnection<DB>) -> BoxFuture<'c, Result<T>> + Send + Sync>;

/// A database in which steps work. Clones share it.
pub struct StepDatabase<DB: Backend> {
    kept: Arc<Kept<DB>>,
    outbox: Outbox,
}

impl<DB: Backend> StepDatabase<DB> {
    /// The database of `pool`. The schema must be there: `barid-relay schema apply`.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { kept: Kept::new(pool), outbox: Outbox::new("saga") }
    }

    /// The database of these units of work.
    #[must_use]
    pub fn of(units: &SqlUnitOfWork<DB>) -> Self {
        Self { kept: Arc::clone(&units.kept), outbox: Outbox::new("saga") }
    }

    /// How messages are encoded that a step [publishes](StepContext::publish), where they go, and who sends them. Their rows commit
    /// with those of the step. Default: the bodies are JSON, and the sender is `saga`.
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// That the database has the table of markers.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    pub async fn ready(&self) -> Result<()> {
        DB::check_schema(self.kept.pool()).await
    }

    /// Work whose action is `action`, in one transaction together with its marker. It cannot commit or roll back; when it fails, or
    /// is dropped, nothing of it stays. What it returns is kept, for the steps after it and for the compensation.
    pub fn work<D, T>(
        &self,
        action: impl for<'c> Fn(StepContext<D>, &'c mut UnitConnection<DB>) -> BoxFuture<'c, Result<T>>
        + Send
        + Sync
        + 'static,
    ) -> SqlWork<D, DB>
    where
        D: DeserializeOwned + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let action: Does<D, DB, Value> = Arc::new(move |cx, db| {
            let (step, done) = (cx.step().to_owned(), action(cx, db));
            Box::pin(async move { encoded(&step, &done.await?) })
        });
        SqlWork { database: self.clone(), action, compensation: None, takes: Takes::default() }
    }
}

/// The action and the compensation of a step, given to [`Step::new`](crate::orchestration::Step::new). Made by
/// [`StepDatabase::work`].
#[must_use = "it does nothing until it is given to a step"]
pub struct SqlWork<D, DB: Backend> {
    database: StepDatabase<DB>,
    action: Does<D, DB, Value>,
    compensation: Option<Does<D, DB, ()>>,
    takes: Takes<D>,
}

/// What is left to do in a unit.
enum Did<T> {
    /// It is done, and has to be committed.
    Now(T, Writes),
    /// It was done before.
    Before(T),
}

impl<D: DeserializeOwned + Send + 'static, DB: Backend> SqlWork<D, DB> {
    /// How it is undone. Called only when the action was done, with what that returned as
    /// [`cx.output`](StepContext::output) of this step; for an action that was not done there is nothing to undo.
    pub fn undo(
        mut self,
        compensation: impl for<'c> Fn(StepContext<D>, &'c mut UnitConnection<DB>) -> BoxFuture<'c, Result<()>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.compensation = Some(Arc::new(compensation));
        self
    }

    async fn open(&self) -> Result<SqlUnit<DB>, Fault> {
        let (unit, opened) =
            SqlUnit::open(&self.database.kept, &Opening::default()).await.map_err(Fault::Failed)?;
        if opened == Recorded::InProgress {
            unit.discard().await;
            return Err(Fault::Busy(Error::new("the database is busy")));
        }
        Ok(unit)
    }

    /// Ends the unit: with COMMIT, or, whatever it was, with ROLLBACK.
    async fn end<T>(&self, unit: &mut SqlUnit<DB>, did: Result<Did<T>, Fault>) -> Result<T, Fault> {
        let (done, writes) = match did {
            Ok(Did::Now(done, writes)) => (done, writes),
            other => {
                // When it fails the connection is closed, which rolls back too: `other` is what there is to say.
                drop(unit.rollback().await);
                return other.map(|did| match did {
                    Did::Before(done) | Did::Now(done, _) => done,
                });
            }
        };
        let sends = !writes.outbox.is_empty();
        unit.stage(writes).map_err(Fault::Failed)?;
        match unit.commit().await {
            Ok(()) => {
                if sends {
                    self.database.outbox.ring();
                }
                Ok(done)
            }
            Err(CommitError::Failed(cause)) => {
                drop(unit.rollback().await);
                Err(Fault::Failed(cause))
            }
            Err(CommitError::Unknown(cause)) => Err(Fault::InDoubt(cause)),
        }
    }

    async fn do_it(&self, unit: &mut SqlUnit<DB>, call: &Call) -> Result<Did<Value>, Fault> {
        match marker::action(unit, call, "done").await? {
            Action::Ours => {}
            Action::Done(output) => return Ok(Did::Before(output)),
            Action::Refused => {
                return Err(Fault::Refused(Error::new(
                    "it was undone before it was done, and never will be",
                )));
            }
        }
        let (cx, sent) = StepContext::<D>::of(call, false).map_err(Fault::of)?.sending();
        let output = (self.action)(cx, &mut unit.connection).await.map_err(Fault::of)?;
        let mut writes = self.writes(sent.take()).await?;
        writes.statements.push(marker::output(call, &output));
        crash::point_of("in act", &call.step);
        Ok(Did::Now(output, writes))
    }

    async fn undo_it(&self, unit: &mut SqlUnit<DB>, call: &Call) -> Result<Did<()>, Fault> {
        let output = match marker::action(unit, call, "refused").await? {
            // Nothing was done, and nothing will be.
            Action::Ours => return Ok(Did::Now((), Writes::default())),
            Action::Refused => return Ok(Did::Before(())),
            Action::Done(output) => output,
        };
        let Some(compensation) = &self.compensation else { return Ok(Did::Before(())) };
        if !marker::compensation(unit, call).await? {
            return Ok(Did::Before(()));
        }
        // The one of the marker: the saga may not have heard of it.
        let mut call = call.clone();
        Arc::make_mut(&mut call.outputs).insert(call.step.to_string(), output);
        let (cx, sent) = StepContext::<D>::of(&call, true).map_err(Fault::of)?.sending();
        compensation(cx, &mut unit.connection).await.map_err(Fault::of)?;
        let writes = self.writes(sent.take()).await?;
        crash::point_of("in compensation", &call.step);
        Ok(Did::Now((), writes))
    }

    async fn writes(&self, sent: Vec<crate::Outgoing>) -> Result<Writes, Fault> {
        let outbox = self.database.outbox.rows(sent).await.map_err(Fault::of)?;
        Ok(Writes { outbox, statements: Vec::new() })
    }
}

impl<D: DeserializeOwned + Send + 'static, DB: Backend> Work<D> for SqlWork<D, DB> {}

#[async_trait]
impl<D: DeserializeOwned + Send + 'static, DB: Backend> StepHandler for SqlWork<D, DB> {
    async fn act(&self, call: &Call) -> Result<Value, Fault> {
        let mut unit = self.open().await?;
        let did = self.do_it(&mut unit, call).await;
        self.end(&mut unit, did).await
    }

    async fn compensate(&self, call: &Call) -> Result<(), Fault> {
        let mut unit = self.open().await?;
        let did = self.undo_it(&mut unit, call).await;
        self.end(&mut unit, did).await
    }

    async fn settle(&self, call: &Call) -> Result<Option<Value>, Fault> {
        let mut unit = self.open().await?;
        let did = marker::action(&mut unit, call, "refused").await.map(|action| match action {
            Action::Ours => Did::Now(None, Writes::default()),
            Action::Done(output) => Did::Before(Some(output)),
            Action::Refused => Did::Before(None),
        });
        self.end(&mut unit, did).await
    }

    async fn forget(&self, saga: SagaId, step: &str) -> Result<()> {
        let delete: Statement = marker::forget(saga, step);
        bounded(async {
            let _writer = DB::writer(self.database.kept.pool()).await;
            let mut connection = UnitConnection::hold(self.database.kept.acquire().await?);
            connection.alone(&delete).await?;
            Ok(())
        })
        .await
    }

    fn can(&self) -> Abilities {
        Abilities { compensates: self.compensation.is_some(), recognises: true }
    }
}

impl<DB: Backend> Clone for StepDatabase<DB> {
    fn clone(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), outbox: self.outbox.clone() }
    }
}

impl<DB: Backend> fmt::Debug for StepDatabase<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepDatabase").field("database", &DB::DISPLAY).finish_non_exhaustive()
    }
}
