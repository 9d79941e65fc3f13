//! The suite sees what is broken: participants with one defect each, taken from what systems of this kind do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use barid::{
    EventStore, Result,
    distributed::{
        Ack, BranchId, CoordinatorId, Decision, EventBranch, EventStoreParticipant, EventStoreResource,
        Health, Resource, ResourceId, RmError, TransactionParticipant, Vote,
    },
    testing::participants::{Subject, Suite},
};
use barid_tests::TestDatabase;
use sqlx::{Pool, Sqlite};

use super::{
    Database,
    events::{event, impossible, stream},
    id,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    /// Preparing only looks whether it could.
    PreparesInMemory,
    /// What has prepared says no when it is asked again.
    RefusesTheSecondPrepare,
    /// An error of a statement is ignored.
    IgnoresFailures,
    /// What cannot be found has committed.
    NotFoundIsCommitted,
    /// What cannot be found has rolled back.
    NotFoundIsRolledBack,
    /// A failed look is an empty one.
    ListsNothing,
    /// It lists the branches of every log.
    ListsOthers,
    /// Ending twice is an error.
    EndsOnce,
    /// What was rolled back before it was prepared can be prepared.
    LeavesNoTombstone,
    /// Work that was done is said to be none.
    SaysReadOnly,
}

const DEFECTS: [(Defect, &str); 11] = [
    (Defect::None, ""),
    (Defect::PreparesInMemory, "it commits what was prepared"),
    (Defect::RefusesTheSecondPrepare, "prepare twice"),
    (Defect::IgnoresFailures, "a failure before prepare"),
    (Defect::NotFoundIsCommitted, "an end of the other kind is told"),
    (Defect::NotFoundIsRolledBack, "an end of the other kind is told"),
    (Defect::ListsNothing, "it commits what was prepared"),
    (Defect::ListsOthers, "it lists exactly the branches of a log"),
    (Defect::EndsOnce, "it rolls back what was prepared"),
    (Defect::LeavesNoTombstone, "prepare after it was rolled back by another"),
    (Defect::SaysReadOnly, "it commits what was prepared"),
];

/// Staged events on SQLite, with a defect.
struct Broken {
    defect: Defect,
    resource: Arc<Faulty>,
    pool: Pool<Sqlite>,
}

struct Faulty {
    defect: Defect,
    inner: Arc<EventStoreResource<Sqlite>>,
}

struct BrokenEvents {
    inner: EventStoreParticipant<Sqlite>,
    resource: Arc<Faulty>,
    asked: AtomicBool,
}

#[async_trait]
impl Resource for Faulty {
    fn id(&self) -> &ResourceId {
        self.inner.id()
    }

    async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        match self.defect {
            Defect::ListsNothing => Ok(Vec::new()),
            Defect::ListsOthers => {
                let mut all = self.inner.prepared(coordinator).await?;
                all.extend(self.inner.prepared(CoordinatorId { epoch: 10, ..coordinator }).await?);
                Ok(all)
            }
            _ => self.inner.prepared(coordinator).await,
        }
    }

    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        let there = self.inner.prepared(branch.coordinator).await?.contains(branch);
        match (self.defect, decision) {
            (Defect::LeavesNoTombstone, Decision::Abort)
            | (Defect::NotFoundIsRolledBack, Decision::Abort)
                if !there =>
            {
                Ok(Ack::Done)
            }
            (Defect::NotFoundIsCommitted, Decision::Commit) if !there => Ok(Ack::Done),
            (Defect::EndsOnce, _) if !there => Err(RmError::Permanent("no such transaction".to_owned())),
            _ => self.inner.finish(branch, decision).await,
        }
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), RmError> {
        self.inner.forget(branch).await
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }
}

#[async_trait]
impl TransactionParticipant for BrokenEvents {
    fn resource_id(&self) -> &ResourceId {
        self.inner.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        "broken"
    }

    async fn begin(&self, branch: &BranchId) -> Result<(), RmError> {
        self.inner.begin(branch).await
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        let again = self.asked.swap(true, Ordering::SeqCst);
        match self.resource.defect {
            Defect::PreparesInMemory => Ok(Vote::Prepared),
            Defect::SaysReadOnly => Ok(Vote::ReadOnly),
            Defect::RefusesTheSecondPrepare if again => Ok(Vote::No { reason: "not open".to_owned() }),
            _ => self.inner.prepare(branch).await,
        }
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        match self.resource.defect {
            Defect::PreparesInMemory => {
                self.inner.prepare(branch).await?;
                self.inner.commit(branch).await
            }
            _ => self.resource.finish(branch, Decision::Commit).await,
        }
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        match self.resource.defect {
            Defect::EndsOnce => self.resource.finish(branch, Decision::Abort).await,
            // The participant itself is closed in any case.
            _ => self.inner.rollback(branch).await,
        }
    }
}

#[async_trait]
impl Subject for Broken {
    type Participant = BrokenEvents;

    fn participant(&self) -> BrokenEvents {
        let inner = self.resource.inner.participant();
        BrokenEvents { inner, resource: Arc::clone(&self.resource), asked: AtomicBool::new(false) }
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.resource.clone()
    }

    async fn work(&self, events: &BrokenEvents, key: u64) -> Result<()> {
        Ok(events.inner.add_events(event(key)?).await?)
    }

    async fn fail(&self, events: &BrokenEvents) -> Result<()> {
        match self.defect {
            Defect::IgnoresFailures => Ok(()),
            _ => Ok(events.inner.add_events(impossible()?).await?),
        }
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        Ok(EventStore::new(self.pool.clone()).version(&stream(key)?).await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_sees_each_defect() {
    let database = Database::of(TestDatabase::sqlite().await).await;
    for (defect, case) in DEFECTS {
        let inner = EventStoreResource::new(id(), EventStore::new(database.pool.clone()));
        let resource = Arc::new(Faulty { defect, inner });
        let subject = Broken { defect, resource, pool: database.pool.clone() };
        let report = Suite::new(subject).transactions(6, 2).run().await;
        let seen = report.broken.iter().any(|(broken, _)| *broken == case);
        assert!(seen || defect == Defect::None && report.broken.is_empty(), "{defect:?}: {report}");
        assert_eq!(report.clone().into_result().is_ok(), defect == Defect::None);
        println!("{defect:?}: {} of its cases are broken", report.broken.len());
    }
}
