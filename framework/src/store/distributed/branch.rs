//! Branches in databases that can be prepared.

use std::{
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use sqlx::Pool;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::guard::BranchGuard;
use super::markers;
use crate::{
    distributed::{
        Ack, BranchId, CoordinatorId, Decision, Health, Heuristic, Pressure, Resource, ResourceId, RmError,
        TransactionParticipant, Vote,
    },
    error::{Error, Result},
    limits,
    store::{
        backend::{Backend, Verdict},
        connection::UnitConnection,
        kept::Kept,
    },
    transport::OutgoingRow,
};

pub use super::two_phase::TwoPhase;

/// A database that takes part by being prepared. Give it to the [`Coordinator`](crate::distributed::Coordinator) of every process,
/// and take a [`branch`](Self::branch) of it for each transaction.
pub struct SqlResource<DB: TwoPhase> {
    id: ResourceId,
    kept: Arc<Kept<DB>>,
    /// Set once it is known that it can be prepared.
    fit: tokio::sync::OnceCell<()>,
}

impl<DB: TwoPhase> SqlResource<DB> {
    /// The database of `pool` under a name that is the same in every process. The role of the pool must be the same everywhere,
    /// too: only who prepared a branch may end it.
    #[must_use]
    pub fn new(id: ResourceId, pool: Pool<DB>) -> Arc<Self> {
        Arc::new(Self { id, kept: Kept::new(pool), fit: tokio::sync::OnceCell::new() })
    }

    /// The branch of one transaction.
    #[must_use]
    pub fn branch(self: &Arc<Self>) -> SqlBranch<DB> {
        SqlBranch {
            resource: Arc::clone(self),
            open: Arc::default(),
            stage: Arc::default(),
            outbox: Arc::default(),
        }
    }

    /// Refuses what would lose or refuse every branch, before any work is done in one.
    async fn check(&self, connection: &mut UnitConnection<DB>) -> Result<(), RmError> {
        let look = || async move {
            match DB::unfit(connection).await {
                Ok(None) => Ok(()),
                Ok(Some(reason)) => Err(RmError::Config(reason)),
                Err(error) => Err(DB::classify(&error)),
            }
        };
        self.fit.get_or_try_init(look).await.copied()
    }

    /// Ends a branch by its name.
    async fn end(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        let ended = {
            let mut connection = hold(self.kept.pool()).await?;
            DB::end_by_name(&mut connection, branch, decision).await?
        };
        let pool = self.kept.pool();
        match (ended, decision) {
            // The server may say so and have done nothing, see `LOST`: the lock on the marker tells.
            (Some(Ack::Done), _) if DB::KEEPS_SESSION => match markers::marked(pool, branch).await {
                Ok(_) => Ok(Ack::Done),
                Err(RmError::Retryable(_)) => Err(RmError::Config(LOST.to_owned())),
                Err(error) => Err(error),
            },
            (Some(ack), _) => Ok(ack),
            (None, Decision::Abort) => markers::tombstone(pool, branch).await,
            (None, Decision::Commit) => match markers::marked(pool, branch).await {
                Ok(Some(state)) if state == "branch" => Ok(Ack::Done),
                Ok(_) => Ok(Ack::Heuristic(Heuristic::RolledBack)),
                // Everybody had prepared before that was decided.
                Err(RmError::Retryable(_)) if DB::KEEPS_SESSION => Err(RmError::Config(LOST.to_owned())),
                Err(error) => Err(error),
            },
        }
    }
}

/// MariaDB forgets a branch that is ended by its name at the moment at which the session ends that has prepared it: it says Ok, has
/// ended nothing, and does not list it any more.
const LOST: &str = "the branch is prepared and keeps its locks, and the server does not list it any more (XA RECOVER): MariaDB loses track of \
    a branch that is ended while the session ends that prepared it. Restart the server: it lists the branch then, and recovery ends it";

async fn hold<DB: Backend>(pool: &Pool<DB>) -> Result<UnitConnection<DB>, RmError> {
    let connection = tokio::time::timeout(limits::CALL_TIMEOUT, pool.acquire()).await;
    let connection = connection.map_err(|_| RmError::Retryable("no connection in time".to_owned()))?;
    Ok(UnitConnection::hold(connection.map_err(|error| RmError::Retryable(error.to_string()))?))
}

#[async_trait]
impl<DB: TwoPhase> Resource for SqlResource<DB> {
    fn id(&self) -> &ResourceId {
        &self.id
    }

    async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        let mut connection = hold(self.kept.pool()).await?;
        DB::prepared(&mut connection, coordinator).await.map_err(|error| DB::classify(&error))
    }

    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        self.end(branch, decision).await
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), RmError> {
        markers::forget(self.kept.pool(), branch).await
    }

    async fn health(&self) -> Health {
        let asked = Instant::now();
        let look = async {
            DB::check_schema(self.kept.pool()).await.map_err(|error| error.to_string())?;
            let mut connection = hold(self.kept.pool()).await.map_err(|error| error.to_string())?;
            DB::examine(&mut connection).await.map_err(|error| error.to_string())?
        };
        let found = look.await;
        let healthy = found.is_ok();
        Health { healthy, detail: found.unwrap_or_else(|wrong| wrong), latency: asked.elapsed() }
    }

    async fn pressure(&self) -> Result<Pressure, RmError> {
        let mut connection = hold(self.kept.pool()).await?;
        DB::pressure(&mut connection).await.map_err(|error| DB::classify(&error))
    }
}

/// One branch of one transaction. Clones are the same branch.
pub struct SqlBranch<DB: TwoPhase> {
    resource: Arc<SqlResource<DB>>,
    open: Arc<Mutex<Option<UnitConnection<DB>>>>,
    stage: Arc<Lock<Stage>>,
    outbox: Arc<Lock<Vec<OutgoingRow>>>,
}

/// How far a branch is in this process.
#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// Work can be done in it.
    #[default]
    Open,
    /// It was asked to prepare, and there was no answer.
    Asked,
    /// It has prepared.
    Prepared,
    /// It has changed nothing, and is over.
    ReadOnly,
    /// It was rolled back before anybody asked it to prepare, and nobody can any more.
    Undone,
    /// It is over, or goes on by its name.
    Ended,
}

impl<DB: TwoPhase> Clone for SqlBranch<DB> {
    fn clone(&self) -> Self {
        Self {
            resource: Arc::clone(&self.resource),
            open: Arc::clone(&self.open),
            stage: Arc::clone(&self.stage),
            outbox: Arc::clone(&self.outbox),
        }
    }
}

impl<DB: TwoPhase> SqlBranch<DB> {
    /// The connection, once the transaction has begun. Waits up to [`limits::GUARD_WAIT`] for a guard that is alive.
    ///
    /// # Errors
    /// When it has not begun, is prepared, or a guard is held for longer.
    pub async fn connection(&self) -> Result<BranchGuard<DB>> {
        let guard = self.held().await.map_err(Error::new)?;
        if guard.is_none() || self.stage() != Stage::Open {
            return Err(Error::new(
                "the branch is not open: begin the transaction first, and work before it is prepared",
            ));
        }
        Ok(BranchGuard(guard))
    }

    /// The same without waiting: whoever holds it is in the same handler, and would wait for itself.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(super) fn connection_now(&self) -> Result<BranchGuard<DB>> {
        let guard = Arc::clone(&self.open).try_lock_owned().map_err(|_| {
            Error::new(format!(
                "a guard of branch {} is alive already: drop it before taking another",
                self.resource.id
            ))
        })?;
        if guard.is_none() { Err(Error::new("the branch has ended")) } else { Ok(BranchGuard(guard)) }
    }

    /// Rows that enter the outbox of this database with the branch.
    pub fn publish(&self, rows: impl IntoIterator<Item = OutgoingRow>) {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, to: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Votes no, for a reason that the connection does not know.
    pub(super) async fn refuse(&self, reason: String) -> Vote {
        self.turn(Stage::Ended);
        // Whoever still holds a guard holds a connection that nobody asks to prepare any more.
        if let Ok(mut held) = self.held().await
            && let Some(mut connection) = held.take()
        {
            connection.close_hard().await;
        }
        Vote::No { reason }
    }

    async fn held(&self) -> Result<OwnedMutexGuard<Option<UnitConnection<DB>>>, String> {
        let held = tokio::time::timeout(limits::GUARD_WAIT, Arc::clone(&self.open).lock_owned()).await;
        held.map_err(|_| {
            "a guard of the branch's connection is still held: drop it before another is taken and before the transaction is prepared"
                .to_owned()
        })
    }

    /// Prepares what is open on `connection`, which is kept in `place` if the branch belongs to its session from then on.
    async fn ask(
        &self,
        mut connection: UnitConnection<DB>,
        branch: &BranchId,
        place: &mut Option<UnitConnection<DB>>,
    ) -> Result<Vote, RmError> {
        if let Some(cause) = connection.poisoned() {
            connection.close_hard().await;
            return Ok(Vote::No { reason: cause.to_owned() });
        }
        let rows = std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        if !rows.is_empty()
            && let Err(error) = connection.insert_outbox(&rows).await
        {
            connection.close_hard().await;
            return Ok(Vote::No { reason: format!("the outbox rows were refused: {error}") });
        }
        match DB::prepare(&mut connection, branch).await {
            Ok(Vote::Prepared) => {
                *place = Some(connection);
                Ok(Vote::Prepared)
            }
            Ok(Vote::ReadOnly) => {
                connection.give_back(&self.resource.kept);
                Ok(Vote::ReadOnly)
            }
            other => {
                connection.close_hard().await;
                other
            }
        }
    }

    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        let mut held = self.held().await.map_err(RmError::Retryable)?;
        let stage = self.stage();
        if stage == Stage::Undone && decision == Decision::Abort {
            return Ok(Ack::Done);
        }
        self.turn(Stage::Ended);
        let Some(mut connection) = held.take() else {
            return self.resource.end(branch, decision).await;
        };
        if stage != Stage::Prepared && decision == Decision::Abort {
            // Nobody has sent a prepare, and with this connection nobody will.
            self.turn(Stage::Undone);
            if DB::KEEPS_SESSION || connection.roll_back().await.is_err() {
                connection.close_hard().await;
            } else {
                connection.give_back(&self.resource.kept);
            }
            return Ok(Ack::Done);
        }
        // The session that has prepared the branch can end it; on MariaDB nobody else can while it lives.
        if stage == Stage::Prepared
            && let Ok(Some(ack)) = DB::end(&mut connection, branch, decision).await
        {
            connection.give_back(&self.resource.kept);
            return Ok(ack);
        }
        // What is open on it ends with it, and may be prepared all the same: from here on its name is all that counts.
        connection.close_hard().await;
        self.resource.end(branch, decision).await
    }
}

#[async_trait]
impl<DB: TwoPhase> TransactionParticipant for SqlBranch<DB> {
    fn resource_id(&self) -> &ResourceId {
        &self.resource.id
    }

    fn resource_type(&self) -> &'static str {
        DB::RESOURCE_TYPE
    }

    async fn begin(&self, branch: &BranchId) -> Result<(), RmError> {
        let kept = tokio::time::timeout(limits::CALL_TIMEOUT, self.resource.kept.take()).await;
        let kept = kept.map_err(|_| RmError::Retryable("no connection in time".to_owned()))?;
        let (connection, reused) = kept.map_err(|error| RmError::Retryable(error.to_string()))?;
        let mut connection = UnitConnection::hold(connection);
        self.resource.check(&mut connection).await?;
        match DB::begin(&mut connection, branch).await {
            // A connection that nobody tested since its last use may have died meanwhile; nothing was begun on it.
            Err(error) if reused && DB::verdict(&error) == Verdict::Unknown => {
                connection = hold(self.resource.kept.pool()).await?;
                DB::begin(&mut connection, branch).await
            }
            begun => begun,
        }
        .map_err(|error| DB::classify(&error))?;
        *self.open.lock().await = Some(connection);
        Ok(())
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        match self.stage() {
            Stage::Open => {}
            Stage::Asked => return Err(RmError::Unknown("it was asked to prepare before".to_owned())),
            Stage::Prepared => return Ok(Vote::Prepared),
            Stage::ReadOnly => return Ok(Vote::ReadOnly),
            Stage::Undone | Stage::Ended => return Ok(Vote::No { reason: "the branch is over".to_owned() }),
        }
        let mut held = match self.held().await {
            Ok(held) => held,
            Err(reason) => return Ok(self.refuse(reason).await),
        };
        // Taken out: a future that is dropped from here on closes the connection, and rolling back goes by name.
        self.turn(Stage::Asked);
        let vote = match held.take() {
            Some(connection) => self.ask(connection, branch, &mut held).await,
            None => Ok(Vote::No { reason: "the branch is not open".to_owned() }),
        };
        match &vote {
            Ok(Vote::Prepared) => self.turn(Stage::Prepared),
            Ok(Vote::ReadOnly) => self.turn(Stage::ReadOnly),
            Ok(Vote::No { .. }) => self.turn(Stage::Ended),
            Err(_) => {}
        }
        vote
    }

    async fn pre_commit(&self, _: &BranchId) -> Result<(), RmError> {
        let health = Resource::health(&*self.resource).await;
        if health.healthy { Ok(()) } else { Err(RmError::Retryable(health.detail)) }
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.finish(branch, Decision::Commit).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.finish(branch, Decision::Abort).await
    }

    async fn leave(&self) {
        if let Ok(mut held) = self.held().await
            && let Some(mut connection) = held.take()
        {
            connection.close_hard().await;
        }
    }
}
