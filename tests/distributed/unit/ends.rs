//! How a transaction ends, and what it says meanwhile.

use std::{sync::Arc, time::Duration};

use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DecisionLog, DistributedError, DistributedUnitOfWork,
        FnParticipant, Gid, Health, Resource, ResourceId, RmError, Settings, SqlDecisionLog, SqlResource,
        TransactionParticipant as _, TwoPhaseStatus, Vote,
        core::{Decision, Refusal},
    },
    store::{AnyPool, schema},
};
use barid_tests::{
    TestDatabase, eventually,
    transfer::{Bank, Scenario, impatient, number},
};

use super::place::{LONG, bank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_commit_or_none_does() {
    for kinds in ["ppp", "ppm", "mpm", "spm"] {
        let (bank, _, _databases) = bank(kinds, 4, Settings::default()).await;
        for (account, scenario) in [(0, Scenario::Yes), (1, Scenario::ThreePhase)] {
            let report = bank.transferred(account, scenario).await.unwrap();
            assert!(report.pending.is_empty() && bank.happened(account).await, "{kinds} {scenario:?}");
        }
        let error = bank.transferred(2, Scenario::No).await.unwrap_err();
        let aborted = error.find::<DistributedError>();
        assert!(matches!(aborted, Some(DistributedError::Aborted { .. })), "{kinds}: {error}");
        assert!(error.to_string().contains("branch-2"), "it says which branch: {error}");
        assert!(!bank.happened(2).await && bank.prepared().await == 0, "{kinds}");
        // Dropped undecided it is rolled back in the background, and nothing stays open.
        let (mut unit, transfer) = bank.transfer(3, Scenario::Yes).unwrap();
        unit.begin().await.unwrap();
        transfer.work().await.unwrap();
        assert!(unit.prepare_all().await.unwrap());
        assert_eq!((unit.status().status, bank.prepared().await), (TwoPhaseStatus::Prepared, 2), "{kinds}");
        drop((unit, transfer));
        bank.coordinator.drain().await;
        assert!(!bank.happened(3).await && bank.prepared().await == 0, "{kinds}");
        bank.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_where_it_is_and_calls_out_of_order_change_nothing() {
    let (bank, _, _databases) = bank("ppp", 2, Settings::default()).await;
    let (mut unit, transfer) = bank.transfer(0, Scenario::Yes).unwrap();
    let status = unit.status();
    assert_eq!((status.status, status.participant_count, status.start_time), (TwoPhaseStatus::Init, 2, None));
    let refused = unit.prepare_all().await.unwrap_err();
    assert!(matches!(refused, DistributedError::Refused(Refusal::NotBegun)), "{refused}");
    unit.begin().await.unwrap();
    assert!(matches!(unit.begin().await.unwrap_err(), DistributedError::AlreadyBegun));
    transfer.work().await.unwrap();
    let refused = unit.commit_all().await.unwrap_err();
    assert!(matches!(refused, DistributedError::Refused(Refusal::NotPrepared)), "{refused}");
    assert!(unit.prepare_all().await.unwrap());
    let status = unit.status();
    assert_eq!((status.prepared_count, status.committed_count), (2, 0));
    assert!(status.start_time.is_some() && status.prepare_time.is_some() && status.commit_time.is_none());
    assert!(unit.commit_all().await.unwrap());
    // What users of other systems wrote: a rollback after the commit. It must touch nothing.
    let refused = unit.rollback_all().await.unwrap_err();
    assert!(
        matches!(refused, DistributedError::Refused(Refusal::AlreadyDecided(Decision::Commit))),
        "{refused}"
    );
    let status = serde_json::to_value(unit.status()).unwrap();
    assert_eq!(status["status"], "committed");
    assert_eq!(status["transaction_id"], unit.transaction_id().to_string());
    assert_eq!(status["coordinator_id"], bank.coordinator.id().to_string());
    assert_eq!((&status["committed_count"], &status["rolled_back_count"]), (&2.into(), &0.into()));
    assert_eq!(status["participants"]["1"]["name"], "branch-2");
    assert_eq!(status["participants"]["1"]["resource_type"], "postgres");
    assert_eq!(status["participants"]["1"]["status"], "committed");
    assert!(status["commit_time"].is_string() && status["rollback_time"].is_null());
    assert!(bank.happened(0).await);
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_interrupts_nothing() {
    let (bank, _, _databases) = bank("ppm", 8, impatient()).await;
    for account in 0..8 {
        let (mut unit, transfer) = bank.transfer(account, Scenario::Yes).unwrap();
        unit.begin().await.unwrap();
        transfer.work().await.unwrap();
        drop(transfer);
        let gid = unit.transaction_id();
        // Polled a few times and dropped, wherever it is then.
        let mut commit = Box::pin(unit.commit());
        for _ in 0..=account {
            let polled = tokio::time::timeout(Duration::from_millis(1), &mut commit).await;
            if polled.is_ok() {
                break;
            }
        }
        drop(commit);
        drop(unit);
        bank.coordinator.drain().await;
        eventually(LONG, "it is over", || async {
            bank.coordinator.recover_once().await.unwrap();
            bank.known(gid).await.is_some_and(|known| known.finished)
        })
        .await;
        bank.happened(account).await;
    }
    assert_eq!(bank.prepared().await, 0);
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_and_recoveries_at_once_have_one_outcome() {
    const TRANSFERS: i64 = 24;
    // So short that recovery aborts transactions whose coordinators live.
    let settings = Settings { deadline: Duration::from_millis(30), ..impatient() };
    let (bank, urls, _databases) = bank("ppm", TRANSFERS, settings).await;
    let bank = Arc::new(bank);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut sweepers = Vec::new();
    for _ in 0..2 {
        let sweeper = Bank::open(&urls, impatient()).await.unwrap();
        let stop = stop.clone();
        sweepers.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                let found = sweeper.coordinator.recover_once().await.unwrap();
                assert_eq!(found.heuristic, 0, "{found:?}");
            }
            sweeper.close().await;
        }));
    }
    let mut committed = 0;
    for account in 0..TRANSFERS {
        committed += i64::from(bank.transferred(account, Scenario::Yes).await.is_ok());
    }
    eventually(LONG, "all are over", || async {
        number(&bank.pools[0], "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL").await == 0
    })
    .await;
    stop.cancel();
    for sweeper in sweepers {
        sweeper.await.unwrap();
    }
    let mut happened = 0;
    for account in 0..TRANSFERS {
        happened += i64::from(bank.happened(account).await);
    }
    println!("{committed} of {TRANSFERS} committed");
    assert_eq!(happened, committed, "what was said is what happened");
    assert_eq!(bank.prepared().await, 0);
}

/// A resource that is made of closures and always at hand.
struct Shelf(ResourceId);

#[async_trait::async_trait]
impl Resource for Shelf {
    fn id(&self) -> &ResourceId {
        &self.0
    }

    async fn prepared(&self, _: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        Ok(Vec::new())
    }

    async fn finish(&self, _: &BranchId, _: Decision) -> Result<Ack, RmError> {
        Ok(Ack::Done)
    }

    async fn forget(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    async fn health(&self) -> Health {
        Health { healthy: true, detail: String::new(), latency: Duration::ZERO }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closures_take_part_and_a_panic_of_one_is_no_commit() {
    let log = TestDatabase::postgres().await;
    schema::apply(&AnyPool::from(log.pool.clone())).await.unwrap();
    let decisions: Arc<dyn DecisionLog> = Arc::new(SqlDecisionLog::new(log.pool.clone()));
    let shelf = ResourceId::new("shelf").unwrap();
    let coordinator =
        Coordinator::connect(decisions, [Arc::new(Shelf(shelf.clone())) as _], Settings::default())
            .await
            .unwrap();
    for (panics, ends) in [
        (false, ["prepare 0", "prepare 1", "commit 0", "commit 1"]),
        (true, ["prepare 0", "rollback 0", "rollback 1", ""]),
    ] {
        let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
        let called = |what: &'static str| {
            let calls = Arc::clone(&calls);
            move |branch: BranchId| calls.lock().unwrap().push(format!("{what} {}", branch.ordinal))
        };
        let mut unit = DistributedUnitOfWork::new(&coordinator);
        for at in 0..2 {
            let (prepare, commit, rollback) = (called("prepare"), called("commit"), called("rollback"));
            let participant = FnParticipant::new(
                shelf.clone(),
                move |branch| {
                    let fails = panics && at == 1;
                    if !fails {
                        prepare(branch);
                    }
                    async move { if fails { panic!("on purpose") } else { Ok(Vote::Prepared) } }
                },
                move |branch| {
                    commit(branch);
                    async { Ok(Ack::Done) }
                },
                move |branch| {
                    rollback(branch);
                    async { Ok(Ack::Done) }
                },
            );
            unit.register_participant(format!("closure {at}"), participant).unwrap();
        }
        let unknown = FnParticipant::new(
            ResourceId::new("nowhere").unwrap(),
            |_| async { Ok(Vote::Prepared) },
            |_| async { Ok(Ack::Done) },
            |_| async { Ok(Ack::Done) },
        );
        let unknown = unit.register_participant("lost", unknown).unwrap_err().to_string();
        assert!(unknown.contains("nowhere") && unknown.contains("Coordinator::connect"), "{unknown}");
        unit.begin().await.unwrap();
        let ended = unit.commit().await;
        assert_eq!(ended.is_err(), panics, "{ended:?}");
        if let Err(error) = ended {
            assert!(
                error.to_string().contains("closure 1") && error.to_string().contains("on purpose"),
                "{error}"
            );
        }
        let mut calls = calls.lock().unwrap().clone();
        calls.sort();
        let mut expected: Vec<_> = ends.into_iter().filter(|end| !end.is_empty()).collect();
        expected.sort_unstable();
        assert_eq!(calls, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_guard_of_a_branch_is_an_error_and_no_deadlock() {
    let database = TestDatabase::postgres().await;
    schema::apply(&AnyPool::from(database.pool.clone())).await.unwrap();
    let resource = SqlResource::new(ResourceId::new("side").unwrap(), database.pool.clone());
    let coordinator = CoordinatorId { id: uuid::Uuid::now_v7(), epoch: 1 };
    let (branch, id) = (resource.branch(), BranchId { coordinator, gid: Gid::fresh(), ordinal: 0 });
    branch.begin(&id).await.unwrap();
    let guard = branch.connection().await.unwrap();
    let second = branch.connection().await.err().unwrap();
    assert!(second.to_string().contains("still held"), "{second}");
    drop(guard);
    drop(branch.connection().await.unwrap());
    for _ in 0..2 {
        assert_eq!(branch.rollback(&id).await.unwrap(), Ack::Done);
    }
    let markers = number(&database.pool.clone().into(), "SELECT count(*) FROM dtx_marker").await;
    assert_eq!(markers, 0, "what nobody was asked to prepare leaves nothing");
}
