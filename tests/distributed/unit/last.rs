//! A last resource: its own commit is the decision, and nobody decides anything else before it was asked.

use std::{sync::Arc, time::Duration};

use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DecisionLog, DistributedError, DistributedUnitOfWork,
        Forget, Gid, Health, Label, Principal, Resource, ResourceId, RmError, Settings, SqlDecisionLog,
        SqlHome, SqlLastResource, SqlResource, TransactionParticipant, Vote,
        core::{BranchKind, Decision, Outcome, Protocol},
        log::{BranchRecord, NewTransaction},
    },
    store::{AnyPool, schema},
};
use barid_tests::{
    TestDatabase,
    transfer::{number, run},
};
use sqlx::{Executor, Postgres, Sqlite};

/// A log, a database that is prepared, and one that only commits.
struct Place {
    log: Arc<SqlDecisionLog<Postgres>>,
    side: Arc<SqlResource<Postgres>>,
    last: Arc<SqlLastResource<Sqlite>>,
    pools: [AnyPool; 2],
    _databases: (TestDatabase<Postgres>, TestDatabase<Postgres>, TestDatabase<Sqlite>),
}

impl Place {
    async fn new() -> Self {
        let databases =
            (TestDatabase::postgres().await, TestDatabase::postgres().await, TestDatabase::sqlite().await);
        let log = AnyPool::from(databases.0.pool.clone());
        let pools = [databases.1.pool.clone().into(), databases.2.pool.clone().into()];
        for pool in pools.iter().chain([&log]) {
            schema::apply(pool).await.unwrap();
            run(pool, "CREATE TABLE t(id BIGINT PRIMARY KEY)").await.unwrap();
        }
        Self {
            log: Arc::new(SqlDecisionLog::new(databases.0.pool.clone())),
            side: SqlResource::new(ResourceId::new("side").unwrap(), databases.1.pool.clone()),
            last: SqlLastResource::new(ResourceId::new("last").unwrap(), databases.2.pool.clone()),
            pools,
            _databases: databases,
        }
    }

    async fn coordinator(&self, last: Arc<dyn Resource>, settings: Settings) -> Coordinator {
        let resources = [self.side.clone() as Arc<dyn Resource>, last];
        Coordinator::connect(self.log.clone(), resources, settings).await.unwrap()
    }

    /// In how many of the two databases something happened.
    async fn happened(&self, id: i64) -> i64 {
        let count = format!("SELECT count(*) FROM t WHERE id={id}");
        number(&self.pools[0], &count).await + number(&self.pools[1], &count).await
    }

    /// What a coordinator leaves that dies before the log has heard from its last resource, which may have committed.
    async fn died(&self, id: i64, committed: bool) -> Gid {
        let (gid, coordinator) = (Gid::fresh(), self.log.coordinator().await.unwrap());
        let record = |name: &str, kind| BranchRecord {
            name: name.to_owned(),
            resource: ResourceId::new(name).unwrap(),
            resource_type: "sql".to_owned(),
            kind,
        };
        let new = NewTransaction {
            gid,
            label: Label::default(),
            name_kept_for: Duration::ZERO,
            protocol: Protocol::TwoPhase,
            home: false,
            deadline: Duration::ZERO,
            branches: vec![record("side", BranchKind::TwoPhase), record("last", BranchKind::Last)],
            findable: false,
        };
        self.log.open(&new).await.unwrap();
        let at = |ordinal| BranchId { coordinator, gid, ordinal };
        let side = self.side.branch();
        side.begin(&at(0)).await.unwrap();
        let insert = || sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id);
        (&mut *side.connection().await.unwrap()).execute(insert()).await.unwrap();
        assert_eq!(side.prepare(&at(0)).await.unwrap(), Vote::Prepared);
        if committed {
            assert_eq!(self.commit_last(at(1), id).await.unwrap(), Ack::Done);
        }
        assert_eq!(self.happened(id).await, i64::from(committed), "one is prepared");
        gid
    }

    async fn commit_last(&self, branch: BranchId, id: i64) -> Result<Ack, RmError> {
        let last = self.last.branch();
        last.begin(&branch).await.unwrap();
        last.run(async |db| {
            (&mut *db).execute(sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id)).await?;
            Ok(())
        })
        .await
        .unwrap();
        last.commit(&branch).await
    }
}

/// A database that is away.
struct Away(ResourceId);

#[async_trait::async_trait]
impl Resource for Away {
    fn id(&self) -> &ResourceId {
        &self.0
    }

    async fn prepared(&self, _: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        Err(RmError::Retryable("away".to_owned()))
    }

    async fn finish(&self, _: &BranchId, _: Decision) -> Result<Ack, RmError> {
        Err(RmError::Retryable("away".to_owned()))
    }

    async fn forget(&self, _: &BranchId) -> Result<(), RmError> {
        Err(RmError::Retryable("away".to_owned()))
    }

    async fn health(&self) -> Health {
        Health { healthy: false, detail: "away".to_owned(), latency: Duration::ZERO }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_decides_against_a_last_resource_that_has_committed() {
    let place = Place::new().await;
    let away = Arc::new(Away(ResourceId::new("last").unwrap()));
    let now = || Settings {
        incomplete_after: Duration::ZERO,
        stale_after: Duration::from_secs(3_600),
        ..Settings::default()
    };
    let stale = || Settings { stale_after: Duration::ZERO, ..now() };
    for (id, settings) in [(1, now()), (2, stale())] {
        let gid = place.died(id, true).await;
        // Nobody can ask it: nothing is decided, and a human is told.
        let blind = place.coordinator(away.clone(), settings.clone()).await;
        let cleaned = blind.clean_up_once().await.unwrap();
        assert!(cleaned.manual > 0 && cleaned.stale == 0, "{cleaned:?}");
        let entry = blind.show(gid).await.unwrap().unwrap().transaction;
        assert_eq!((entry.decision, &*entry.status), (None, "requires_manual_intervention"));
        let seeing = place.coordinator(place.last.clone(), settings).await;
        seeing.clean_up_once().await.unwrap();
        let entry = seeing.show(gid).await.unwrap().unwrap().transaction;
        assert_eq!((entry.decision, &*entry.status), (Some(Decision::Commit), "committed"));
        assert_eq!(place.happened(id).await, 2);
    }

    // By hand nobody can do what recovery could not.
    let ann = Principal::new("ann");
    let gid = place.died(3, true).await;
    let blind = place.coordinator(away, Settings::default()).await;
    let refused = blind.resolve(&ann, gid, Decision::Abort, "it hangs").await.unwrap_err();
    assert!(refused.to_string().contains("the last resource does not answer"), "{refused}");
    let seeing = place.coordinator(place.last.clone(), Settings::default()).await;
    let refused = seeing.resolve(&ann, gid, Decision::Abort, "it hangs").await.unwrap_err();
    assert!(matches!(refused, DistributedError::AlreadyCommitted { .. }), "{refused}");
    assert_eq!(place.happened(3).await, 2);

    // Given up with a database that is gone for good it is a hazard.
    let gid = place.died(4, true).await;
    blind.forget(&ann, gid, Forget::GiveUp, "the file is lost").await.unwrap();
    let entry = blind.show(gid).await.unwrap().unwrap().transaction;
    assert_eq!((entry.decision, &*entry.status), (Some(Decision::Abort), "heuristic_hazard"));

    // One that has not committed is rolled back, and cannot commit any more.
    let gid = place.died(5, false).await;
    let resolved = seeing.resolve(&ann, gid, Decision::Abort, "it hangs").await.unwrap();
    assert_eq!((resolved.outcome, resolved.pending), (Outcome::Aborted, false));
    let entry = seeing.show(gid).await.unwrap().unwrap().transaction;
    assert_eq!(entry.decision_reason.as_deref(), Some("by hand, ann: it hangs"));
    let late = BranchId { coordinator: seeing.id(), gid, ordinal: 1 };
    assert!(place.commit_last(late, 5).await.is_err() && place.happened(5).await == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_resource_decides_where_there_is_no_home() {
    let place = Place::new().await;
    let coordinator = place.coordinator(place.last.clone(), Settings::default()).await;
    for (id, works) in [(1, true), (2, false)] {
        let mut unit = DistributedUnitOfWork::new(&coordinator);
        let (branch, end) = (place.side.branch(), place.last.branch());
        unit.register_participant("side", branch.clone()).unwrap();
        unit.register_participant("last", end.clone()).unwrap();
        let second = unit.register_participant("second", place.last.branch()).unwrap_err();
        assert!(matches!(second, DistributedError::TwoCommitPoints { .. }), "{second}");
        let home = unit.register_home(SqlHome::new(&place.log)).unwrap_err();
        assert!(matches!(home, DistributedError::TwoCommitPoints { .. }), "{home}");
        unit.begin().await.unwrap();
        let insert = || sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id);
        (&mut *branch.connection().await.unwrap()).execute(insert()).await.unwrap();
        end.run(async |db| {
            let insert = || sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id);
            (&mut *db).execute(insert()).await?;
            if !works {
                assert!((&mut *db).execute(insert()).await.is_err());
            }
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(unit.commit().await.is_ok(), works);
        assert_eq!(place.happened(id).await, if works { 2 } else { 0 }, "{id}");
    }
}
