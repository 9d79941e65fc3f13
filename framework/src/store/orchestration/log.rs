//! The sagas of an orchestrator in the database that keeps them: what [`SagaLog`] promises, in SQL.
//!
//! A turn is an epoch. Every save names its own and, when there is a newer one, violates `orchestration_epoch`: nothing of the whole
//! transaction is written then. The time that a turn lasts is by the database's clock.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Pool;
use uuid::Uuid;

use super::rows;
use crate::{
    distributed::log::LogError,
    error::{Error, Result as UnitResult},
    orchestration::{
        NewSaga, OrchestrationError, SagaId, Started,
        core::State,
        log::{SagaLog, Save, SavedStep, Stored, Then, Turn},
    },
    store::{
        backend::Backend,
        connection::UnitConnection,
        distributed::log::{SqlDecisionLog, millis},
        statement::Statement,
        unit::bounded,
    },
};

/// The tables `orchestration` and `orchestration_step` of one database.
pub struct SqlSagaLog<DB: Backend> {
    /// How its database is asked is the decision log's way.
    pub(super) desk: SqlDecisionLog<DB>,
}

impl<DB: Backend> SqlSagaLog<DB> {
    /// The sagas in the database of `pool`. The schema must be there: `barid-relay schema apply`.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { desk: SqlDecisionLog::new(pool) }
    }

    /// That the database has the tables.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    pub async fn ready(&self) -> UnitResult<()> {
        DB::check_schema(self.desk.kept.pool()).await
    }

    /// Starts a saga in somebody's unit of work, on its connection: it is started when that commits, and never when it rolls back.
    /// An orchestrator finds it at its next look.
    ///
    /// # Errors
    /// When the database refuses or does not answer: the unit cannot commit any more.
    pub async fn start_in(db: &mut UnitConnection<DB>, saga: &NewSaga) -> UnitResult<Started> {
        let known = Statement::new("SELECT 1 FROM orchestration WHERE id=").text(saga.id.to_string());
        bounded(async {
            if !db.ask(&known).await?.1.is_empty() {
                return Ok(Started::Before);
            }
            for statement in inserts::<DB>(saga) {
                db.ask(&statement).await?;
            }
            Ok(Started::Now)
        })
        .await
        .map_err(|error| error.context(format!("starting saga {}", saga.id)))
    }

    pub(super) async fn read(
        &self,
        id: SagaId,
    ) -> Result<(Vec<DB::Row>, Option<Stored>), OrchestrationError> {
        let select = rows::whole::<DB>().sql("t.id=").text(id.to_string()).sql(" ORDER BY s.ordinal");
        let (_, found) = self.desk.ask(&select).await?;
        let stored = rows::stored::<DB>(id, &found)?;
        Ok((found, stored))
    }

    pub(super) async fn ids(&self, select: &Statement) -> Result<Vec<SagaId>, OrchestrationError> {
        let (_, found) = self.desk.ask(select).await?;
        let id = |row: &DB::Row| DB::text(row, 0).map(|id| id.and_then(|id| id.parse().ok()));
        let ids: Result<Vec<Option<SagaId>>, _> = found.iter().map(id).collect();
        Ok(ids.map_err(crate::orchestration::book::unreadable)?.into_iter().flatten().collect())
    }

    /// Writes what only the holder of a turn may write.
    pub(super) async fn fenced(&self, id: SagaId, all: Vec<Statement>) -> Result<(), OrchestrationError> {
        self.desk.write(all).await.map_err(|error| match error {
            // The same name on every database, in words of its own on each.
            LogError::Refused(cause) if cause.to_string().contains("orchestration_epoch") => {
                OrchestrationError::Fenced(id)
            }
            error => error.into(),
        })
    }
}

/// The rows of a saga that is started.
fn inserts<DB: Backend>(saga: &NewSaga) -> Vec<Statement> {
    let (id, insert) =
        (saga.id.to_string(), "INSERT INTO orchestration(id,name,version,status,data,deadline)VALUES(");
    let insert = Statement::new(insert).text(&id).sql(",").text(&saga.name).sql(",");
    let insert = insert.int(saga.version.into()).sql(",'running',").text(&saga.data).sql(",");
    let insert = match saga.deadline {
        Some(deadline) => DB::later(insert, millis(deadline)),
        None => insert.sql("NULL"),
    };
    let mut all = vec![insert.sql(")")];
    let mut steps = Statement::new("INSERT INTO orchestration_step(id,ordinal,name,status)VALUES");
    for (ordinal, name) in (0..).zip(&saga.steps) {
        let comma = if ordinal == 0 { "(" } else { ",(" };
        steps = steps.sql(comma).text(&id).sql(",").int(ordinal).sql(",").text(name).sql(",'pending')");
    }
    all.push(steps);
    all
}

/// Begins an update of a saga that fails when its epoch is another one.
pub(super) fn in_turn(epoch: i64, next: i64) -> Statement {
    let update = Statement::new("UPDATE orchestration SET epoch=CASE WHEN epoch=").int(epoch);
    update.sql(" THEN ").int(next).sql(" ELSE -1 END")
}

/// The update of a step.
pub(super) fn step_update<DB: Backend>(id: SagaId, state: &State, step: &SavedStep) -> Statement {
    let now = &state.steps[step.at];
    let update = Statement::new("UPDATE orchestration_step SET status=").text(now.status.to_string());
    let update = update.sql(",attempts=").int(now.attempts.into()).sql(",compensations=");
    let update = update.int(now.compensations.into()).sql(",in_doubt=").int(now.in_doubt.into());
    let update = match &step.output {
        Some(output) => update.sql(",output=").text(output.to_string()),
        None => update,
    };
    let update = match &step.error {
        Some(error) => update.sql(",error=").text(error),
        None => update,
    };
    let update = update.sql(",updated_at=").sql(DB::NOW).sql(" WHERE id=").text(id.to_string());
    update.sql(" AND ordinal=").int(i64::try_from(step.at).unwrap_or(i64::MAX))
}

#[async_trait]
impl<DB: Backend> SagaLog for SqlSagaLog<DB> {
    async fn start(&self, saga: &NewSaga) -> Result<Started, OrchestrationError> {
        match self.desk.write(inserts::<DB>(saga)).await {
            Ok(()) => Ok(Started::Now),
            Err(LogError::Refused(cause)) if is_taken(&cause) => Ok(Started::Before),
            Err(error) => Err(error.into()),
        }
    }

    async fn due(&self, defined: &[(String, u32)], count: u32) -> Result<Vec<SagaId>, OrchestrationError> {
        if defined.is_empty() {
            return Ok(Vec::new());
        }
        let select = rows::due::<DB>(Statement::new("SELECT id FROM orchestration WHERE "));
        let select = of(select.sql(" AND("), defined).sql(") ORDER BY next_run_at LIMIT ");
        self.ids(&select.int(count.into())).await
    }

    async fn take(
        &self,
        id: SagaId,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<(Turn, Stored)>, OrchestrationError> {
        // By it the row is recognised when it is read: whoever reads late may find that the next one has it.
        let owner = format!("{} {}", owner.chars().take(100).collect::<String>(), Uuid::now_v7());
        let update = Statement::new("UPDATE orchestration SET epoch=epoch+1,lease_owner=").text(&owner);
        let update = DB::later(update.sql(",lease_until="), millis(lease));
        let update = rows::due::<DB>(update.sql(" WHERE id=").text(id.to_string()).sql(" AND "));
        if self.desk.ask(&update).await?.0 == 0 {
            return Ok(None);
        }
        let (found, stored) = self.read(id).await?;
        let ours =
            found.first().map(rows::owner::<DB>).transpose()?.flatten().is_some_and(|now| now == owner);
        Ok(stored.filter(|_| ours).map(|stored| (Turn { saga: id, epoch: stored.epoch }, stored)))
    }

    async fn load(&self, id: SagaId) -> Result<Option<Stored>, OrchestrationError> {
        Ok(self.read(id).await?.1)
    }

    async fn save(&self, turn: Turn, save: &Save<'_>) -> Result<(), OrchestrationError> {
        let update =
            in_turn(turn.epoch, turn.epoch).sql(",status=").text(save.then.status(save.state.direction));
        let update = update.sql(",direction=").text(save.state.direction.as_str());
        let update = update.sql(",error=").opt_text(save.error).sql(",updated_at=").sql(DB::NOW);
        let update = match save.then {
            Then::Hold(lease) => DB::later(update.sql(",lease_until="), millis(lease)),
            Then::Pause(pause) => {
                DB::later(update.sql(",lease_owner=NULL,lease_until=NULL,next_run_at="), millis(pause))
            }
            Then::Finish(_) => update.sql(",lease_owner=NULL,lease_until=NULL,finished_at=").sql(DB::NOW),
            Then::AskForHelp => update.sql(",lease_owner=NULL,lease_until=NULL"),
        };
        let mut all = vec![update.sql(" WHERE id=").text(turn.saga.to_string())];
        all.extend(save.steps.iter().map(|step| step_update::<DB>(turn.saga, save.state, step)));
        self.fenced(turn.saga, all).await
    }
}

/// That a saga is of one of these definitions.
pub(super) fn of(mut statement: Statement, defined: &[(String, u32)]) -> Statement {
    for (at, (name, version)) in defined.iter().enumerate() {
        statement = statement.sql(if at == 0 { "(name=" } else { " OR(name=" }).text(name);
        statement = statement.sql(" AND version=").int((*version).into()).sql(")");
    }
    statement
}

/// Whether somebody has started a saga of this id.
fn is_taken(error: &Error) -> bool {
    let answer = error.find::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    answer.is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
