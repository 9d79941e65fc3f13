//! The distributed unit of work on real databases: how it ends, what it says, and what is left.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{any::Any, sync::Arc, time::Duration};

use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DecisionLog, DistributedError, DistributedUnitOfWork,
        FnParticipant, Gid, Health, Heuristic, Resource, ResourceId, RmError, Settings, SqlDecisionLog,
        SqlHome, SqlLastResource, SqlResource, TwoPhaseStatus, Vote,
        core::{Decision, Refusal},
    },
    store::{AnyPool, schema},
};
use barid_tests::{
    Proxy, TestDatabase, eventually,
    transfer::{Bank, Scenario, impatient, number, run},
};
use sqlx::Executor;

const LONG: Duration = Duration::from_secs(120);

type Databases = Vec<Box<dyn Any>>;

/// A home and two others of these kinds.
async fn bank(kinds: &str, accounts: i64, settings: Settings) -> (Bank, Vec<String>, Databases) {
    let (mut urls, mut databases) = (Vec::new(), Databases::new());
    for kind in kinds.chars() {
        match kind {
            'p' => keep(TestDatabase::postgres().await, |d| d.url.clone(), &mut urls, &mut databases),
            'm' => keep(TestDatabase::mariadb().await, |d| d.url.clone(), &mut urls, &mut databases),
            _ => keep(TestDatabase::sqlite().await, |d| d.url.clone(), &mut urls, &mut databases),
        }
    }
    Bank::create(&urls, accounts).await.unwrap();
    (Bank::open(&urls, settings).await.unwrap(), urls, databases)
}

fn keep<D: 'static>(database: D, url: fn(&D) -> String, urls: &mut Vec<String>, databases: &mut Databases) {
    urls.push(url(&database));
    databases.push(Box::new(database));
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_found_out() {
    // The commit of home, PREPARE, COMMIT PREPARED and ROLLBACK PREPARED: done and not heard of, or not done.
    let (_, urls, _databases) = bank("ppp", 6, impatient()).await;
    let (home, home_url) = Proxy::in_front_of(&urls[0]).await;
    let (side, side_url) = Proxy::in_front_of(&urls[2]).await;
    let bank = Bank::open(&[home_url, urls[1].clone(), side_url], impatient()).await.unwrap();
    let direct = Bank::open(&urls, impatient()).await.unwrap();
    type Cut = fn(&Proxy, &[u8]);
    let (after, before): (Cut, Cut) = (Proxy::cut_after_request, Proxy::cut_before_request);
    let cases: [(&Proxy, Cut, &[u8], bool); 6] = [
        (&home, after, b"UPDATE dtx_transaction SET decision=CASE", true),
        (&home, before, b"UPDATE dtx_transaction SET decision=CASE", false),
        (&side, after, b"PREPARE TRANSACTION", false),
        (&side, before, b"PREPARE TRANSACTION", false),
        (&side, after, b"COMMIT PREPARED", true),
        (&side, before, b"COMMIT PREPARED", true),
    ];
    for (account, (proxy, cut, needle, commits)) in (0..).zip(cases) {
        let fired = proxy.fired().len();
        cut(proxy, needle);
        let said = bank.transferred(account, Scenario::Yes).await;
        let what = String::from_utf8_lossy(needle);
        assert_eq!(proxy.fired().len(), fired + 1, "{what}: the fault struck");
        assert_eq!(said.is_ok(), commits, "{what}: {said:?}");
        eventually(LONG, "it is over", || async {
            direct.coordinator.recover_once().await.unwrap();
            number(&direct.pools[0], "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL").await
                == 0
        })
        .await;
        assert_eq!(direct.happened(account).await, commits, "{what}");
        assert_eq!(direct.prepared().await, 0, "{what}");
    }
    bank.close().await;
    direct.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_was_rolled_back_by_hand_is_reported() {
    let alerts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&alerts);
    let settings = Settings {
        on_alert: Some(Arc::new(move |gid: Gid, what: &str| {
            heard.lock().unwrap().push((gid, what.to_owned()))
        })),
        ..Settings::default()
    };
    let (bank, _, _databases) = bank("ppp", 1, settings).await;
    let (mut unit, transfer) = bank.transfer(0, Scenario::Yes).unwrap();
    unit.begin().await.unwrap();
    transfer.work().await.unwrap();
    assert!(unit.prepare_all().await.unwrap());
    let AnyPool::Postgres(pool) = &bank.pools[1] else { panic!("a PostgreSQL") };
    let name: String =
        sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            .fetch_one(pool)
            .await
            .unwrap();
    run(&bank.pools[1], &format!("ROLLBACK PREPARED '{name}'")).await.unwrap();
    let error = unit.commit_all().await.unwrap_err();
    let mixed = matches!(error, DistributedError::HeuristicMixed { heuristic: Heuristic::Mixed, .. });
    assert!(mixed && error.to_string().contains("branch-1"), "{error}");
    assert_eq!(unit.status().status, TwoPhaseStatus::Failed);
    assert_eq!(alerts.lock().unwrap().len(), 1, "somebody was told");
    let reported =
        "SELECT count(*) FROM dtx_transaction WHERE status='heuristic_mixed' AND finished_at IS NOT NULL";
    assert_eq!(number(&bank.pools[0], reported).await, 1);
    assert_eq!(
        number(&bank.pools[0], "SELECT count(*) FROM dtx_event WHERE event='heuristic outcome'").await,
        1
    );
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_of_others_are_left_alone_and_our_own_are_not() {
    let (bank, _, _databases) = bank("ppp", 1, Settings::default()).await;
    let ours = bank.coordinator.id();
    let other_log = CoordinatorId { id: uuid::Uuid::now_v7(), epoch: 1 };
    let other_epoch = CoordinatorId { epoch: ours.epoch + 1, ..ours };
    for coordinator in [ours, other_log, other_epoch] {
        let branch = BranchId { coordinator, gid: Gid::fresh(), ordinal: 0 };
        let text = format!(
            "BEGIN;INSERT INTO account(id,balance)VALUES({},0);PREPARE TRANSACTION '{branch}'",
            rand_id()
        );
        run(&bank.pools[1], &text).await.unwrap();
    }
    run(
        &bank.pools[1],
        "BEGIN;INSERT INTO account(id,balance)VALUES(-1,0);PREPARE TRANSACTION 'somebody else'",
    )
    .await
    .unwrap();
    let found = bank.coordinator.recover_once().await.unwrap();
    assert_eq!((found.orphans, found.failed_scans.len()), (1, 0), "{found:?}");
    let left = "SELECT count(*) FROM pg_prepared_xacts WHERE database=current_database()";
    assert_eq!(number(&bank.pools[1], left).await, 3, "nobody else's is touched");
    let AnyPool::Postgres(pool) = &bank.pools[1] else { panic!("a PostgreSQL") };
    let names: Vec<String> =
        sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts WHERE database=current_database()")
            .fetch_all(pool)
            .await
            .unwrap();
    for name in names {
        run(&bank.pools[1], &format!("ROLLBACK PREPARED '{name}'")).await.unwrap();
    }
    bank.close().await;
}

fn rand_id() -> u64 {
    uuid::Uuid::now_v7().as_u128() as u64 >> 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_scan_is_no_empty_scan_and_a_resource_that_is_away_is_waited_for() {
    let (_, urls, _databases) = bank("ppp", 1, impatient()).await;
    let (side, side_url) = Proxy::in_front_of(&urls[2]).await;
    let bank = Bank::open(&[urls[0].clone(), urls[1].clone(), side_url], impatient()).await.unwrap();
    let (mut unit, transfer) = bank.transfer(0, Scenario::Yes).unwrap();
    unit.begin().await.unwrap();
    transfer.work().await.unwrap();
    assert!(unit.prepare_all().await.unwrap());
    // Gone for good: what is connected is cut, and nobody gets through any more.
    drop(side);
    assert!(!unit.commit_all().await.unwrap(), "decided, and one branch has not confirmed it");
    let found = bank.coordinator.recover_once().await.unwrap();
    assert_eq!(found.failed_scans.len(), 1, "{found:?}");
    let direct = Bank::open(&urls, impatient()).await.unwrap();
    assert_eq!(direct.prepared().await, 1);
    eventually(LONG, "another process completes it", || async {
        direct.coordinator.recover_once().await.unwrap();
        direct.prepared().await == 0
    })
    .await;
    assert!(direct.happened(0).await);
    bank.close().await;
    direct.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_resource_decides_where_there_is_no_home() {
    let (log, side, last) =
        (TestDatabase::postgres().await, TestDatabase::postgres().await, TestDatabase::sqlite().await);
    for pool in
        [AnyPool::from(log.pool.clone()), AnyPool::from(side.pool.clone()), AnyPool::from(last.pool.clone())]
    {
        schema::apply(&pool).await.unwrap();
        run(&pool, "CREATE TABLE t(id BIGINT PRIMARY KEY)").await.unwrap();
    }
    let decisions = Arc::new(SqlDecisionLog::new(log.pool.clone()));
    let side_of = SqlResource::new(ResourceId::new("side").unwrap(), side.pool.clone());
    let last_of = SqlLastResource::new(ResourceId::new("last").unwrap(), last.pool.clone());
    let resources: [Arc<dyn Resource>; 2] = [side_of.clone(), last_of.clone()];
    let coordinator = Coordinator::connect(decisions.clone(), resources, Settings::default()).await.unwrap();
    for (id, works) in [(1, true), (2, false)] {
        let mut unit = DistributedUnitOfWork::new(&coordinator);
        let (branch, end) = (side_of.branch(), last_of.branch());
        unit.register_participant("side", branch.clone()).unwrap();
        unit.register_participant("last", end.clone()).unwrap();
        let second = unit.register_participant("second", last_of.branch()).unwrap_err();
        assert!(matches!(second, DistributedError::TwoCommitPoints { .. }), "{second}");
        let home = unit.register_home(SqlHome::new(&decisions)).unwrap_err();
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
        let count = format!("SELECT count(*) FROM t WHERE id={id}");
        for pool in [AnyPool::from(side.pool.clone()), AnyPool::from(last.pool.clone())] {
            assert_eq!(number(&pool, &count).await, i64::from(works), "{id}");
        }
    }
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
