//! Those that take events: staged, in a branch, and closures that stage by hand.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use barid::{
    EventStore, Result,
    distributed::{
        Ack, BranchId, Decision, EventBranch, EventStoreParticipant, EventStoreResource, FnParticipant,
        Resource, ResourceId, RmError, SqlBranchEvents, SqlResource, TransactionParticipant, Vote,
    },
    event_store::{Expected, NewEvent, StagedAppend, StagedEvents, StreamName},
    store::{AnyPool, Backend, distributed::branch::TwoPhase},
    testing::participants::{Subject, Suite},
};
use barid_tests::TestDatabase;
use sqlx::{MySql, Pool, Postgres, Sqlite};

use super::{Database, PREPARED, ending, id, kept};

pub(crate) fn stream(key: u64) -> Result<StreamName> {
    Ok(StreamName::new(format!("it's \"{key}\" of 100%_"))?)
}

pub(crate) fn event(key: u64) -> Result<StagedAppend> {
    Ok(StagedAppend::new(stream(key)?, Expected::NoStream).event(NewEvent::raw("things.done", "{}")))
}

/// What no stream is.
pub(crate) fn impossible() -> Result<StagedAppend> {
    let nothing = StagedAppend::new(StreamName::new("nothing")?, Expected::Version(7));
    Ok(nothing.event(NewEvent::raw("things.done", "{}")))
}

/// Event stores whose events are staged.
struct Staged<DB: Backend>(Database<DB>, Arc<EventStoreResource<DB>>);

#[async_trait]
impl<DB: Backend> Subject for Staged<DB> {
    type Participant = EventStoreParticipant<DB>;

    fn participant(&self) -> EventStoreParticipant<DB> {
        self.1.participant()
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, events: &EventStoreParticipant<DB>, key: u64) -> Result<()> {
        Ok(events.add_events(event(key)?).await?)
    }

    async fn fail(&self, events: &EventStoreParticipant<DB>) -> Result<()> {
        Ok(events.add_events(impossible()?).await?)
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        Ok(EventStore::new(self.0.pool.clone()).version(&stream(key)?).await?)
    }
}

async fn staged<DB: Backend>(what: &str, database: TestDatabase<DB>, cases: usize)
where
    AnyPool: From<Pool<DB>>,
{
    let database = Database::of(database).await;
    let (any, store) = (database.any.clone(), EventStore::new(database.pool.clone()));
    let suite = Suite::new(Staged(database, EventStoreResource::new(id(), store)));
    // SQLite has no sessions.
    let suite = if cases == PREPARED { suite.end_sessions(ending(&any)) } else { suite };
    kept(what, suite, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staged_event_stores() {
    staged::<Postgres>("events staged on PostgreSQL", TestDatabase::postgres().await, PREPARED).await;
    staged::<MySql>("events staged on MariaDB", TestDatabase::mariadb().await, PREPARED).await;
    staged::<Sqlite>("events staged on SQLite", TestDatabase::sqlite().await, PREPARED - 1).await;
}

/// Event stores in a branch.
struct InBranch<DB: TwoPhase>(Database<DB>, Arc<SqlResource<DB>>);

#[async_trait]
impl<DB: TwoPhase> Subject for InBranch<DB> {
    type Participant = SqlBranchEvents<DB>;

    fn participant(&self) -> SqlBranchEvents<DB> {
        self.1.branch().events(EventStore::new(self.0.pool.clone()))
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, events: &SqlBranchEvents<DB>, key: u64) -> Result<()> {
        Ok(events.add_events(event(key)?).await?)
    }

    async fn fail(&self, events: &SqlBranchEvents<DB>) -> Result<()> {
        Ok(events.add_events(impossible()?).await?)
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        Ok(EventStore::new(self.0.pool.clone()).version(&stream(key)?).await?)
    }
}

async fn in_branch<DB: TwoPhase>(what: &str, database: TestDatabase<DB>)
where
    AnyPool: From<Pool<DB>>,
{
    let database = Database::of(database).await;
    let (resource, end) = (SqlResource::new(id(), database.pool.clone()), ending(&database.any));
    kept(what, Suite::new(InBranch(database, resource)).end_sessions(end), PREPARED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_stores_in_a_branch() {
    in_branch::<Postgres>("events in a branch on PostgreSQL", TestDatabase::postgres().await).await;
    in_branch::<MySql>("events in a branch on MariaDB", TestDatabase::mariadb().await).await;
}

/// Closures, which stage by hand.
struct Closures(Database<Sqlite>, Arc<EventStoreResource<Sqlite>>);

/// What they have been given, and the closures.
struct ByHand(Arc<Mutex<Vec<StagedAppend>>>, FnParticipant);

impl Closures {
    fn of(&self) -> ByHand {
        let collected = Arc::new(Mutex::new(Vec::new()));
        let (pending, resource) = (Arc::clone(&collected), Arc::clone(&self.1));
        let staged = StagedEvents::new(self.0.pool.clone());
        let finish = move |decision| {
            let resource = Arc::clone(&resource);
            move |branch: BranchId| {
                let resource = Arc::clone(&resource);
                async move { resource.finish(&branch, decision).await }
            }
        };
        let prepare = move |branch: BranchId| {
            let (staged, appends) = (staged.clone(), std::mem::take(&mut *pending.lock().unwrap()));
            async move {
                match staged.prepare(&branch.to_string(), appends).await {
                    Ok(()) => Ok(Vote::Prepared),
                    Err(error) if error.is_transient() => Err(RmError::Unknown(error.to_string())),
                    Err(error) => Ok(Vote::No { reason: error.to_string() }),
                }
            }
        };
        let (commit, rollback) = (finish(Decision::Commit), finish(Decision::Abort));
        ByHand(collected, FnParticipant::new(id(), prepare, commit, rollback))
    }
}

#[async_trait]
impl TransactionParticipant for ByHand {
    fn resource_id(&self) -> &ResourceId {
        self.1.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        self.1.resource_type()
    }

    async fn begin(&self, branch: &BranchId) -> Result<(), RmError> {
        self.1.begin(branch).await
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        self.1.prepare(branch).await
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.1.commit(branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.1.rollback(branch).await
    }
}

#[async_trait]
impl Subject for Closures {
    type Participant = ByHand;

    fn participant(&self) -> ByHand {
        self.of()
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, closures: &ByHand, key: u64) -> Result<()> {
        closures.0.lock().unwrap().push(event(key)?);
        Ok(())
    }

    async fn fail(&self, closures: &ByHand) -> Result<()> {
        closures.0.lock().unwrap().push(impossible()?);
        Ok(())
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        Ok(EventStore::new(self.0.pool.clone()).version(&stream(key)?).await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closures() {
    let database = Database::of(TestDatabase::sqlite().await).await;
    let resource = EventStoreResource::new(id(), EventStore::new(database.pool.clone()));
    kept("closures", Suite::new(Closures(database, resource)), PREPARED - 1).await;
}
