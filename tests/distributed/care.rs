//! Who looks after distributed transactions: clean-up, decisions by hand, and what is told to people.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use barid::{
    Circuit, CircuitBreaker, Error,
    distributed::{
        Ack, Alarm, BranchId, Coordinator, CoordinatorId, DecisionLog, DistributedError,
        DistributedUnitOfWork, ExternalStage, Figure, FnParticipant, Forget, Gid, Health, Principal,
        ProcessError, ProcessKey, Processed, Resource, ResourceId, RmError, Settings, SqlDecisionLog,
        SqlHome, SqlResource, Thresholds, TransactionFilter, TransactionRetry, Vote, Which,
        core::{Decision, Outcome},
    },
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase, eventually, transfer::number};
use shop::Shop;

mod shop;

const LONG: Duration = Duration::from_secs(120);

type Heard = Arc<Mutex<Vec<String>>>;

fn hearing(settings: Settings) -> (Settings, Heard) {
    let heard = Heard::default();
    let hook = Arc::clone(&heard);
    let on_alert = Arc::new(move |_: Gid, what: &str| hook.lock().unwrap().push(what.to_owned()));
    (Settings { on_alert: Some(on_alert), ..settings }, heard)
}

async fn text(pool: &AnyPool, query: &str) -> String {
    let query = sqlx::AssertSqlSafe(query.to_owned());
    match pool {
        AnyPool::Postgres(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        AnyPool::MySql(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        AnyPool::Sqlite(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        _ => panic!("a database that the tests do not know"),
    }
}

/// The log is the same on every database: names, waiting, clean-up, lists, the view, the audit.
async fn on_every_log(log: Arc<dyn DecisionLog>, pool: AnyPool) {
    let kind = pool.dialect();
    let side = TestDatabase::postgres().await;
    schema::apply(&side.pool.clone().into()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE entry(id BIGINT PRIMARY KEY)").execute(&side.pool).await.unwrap();
    let resource = SqlResource::new(ResourceId::new("side").unwrap(), side.pool.clone());
    let prepare = async |coordinator: &Coordinator, name: &str, wait: Duration, id: i64| {
        let (mut unit, branch) = (DistributedUnitOfWork::new(coordinator), resource.branch());
        unit.register_participant("side", branch.clone()).unwrap();
        let begun = coordinator.named(Principal::new("ann")).waiting_for(wait);
        let work = || async {
            let insert = sqlx::query("INSERT INTO entry(id)VALUES($1)").bind(id);
            sqlx::Executor::execute(&mut *branch.connection().await?, insert).await?;
            Ok::<_, Error>(())
        };
        begun.begin_distributed(name, unit, work).await
    };
    let connect = async |settings| {
        let resources: [Arc<dyn Resource>; 1] = [resource.clone()];
        Coordinator::connect(Arc::clone(&log), resources, settings).await.unwrap()
    };
    let coordinator = connect(Settings { stale_after: Duration::ZERO, ..Settings::default() }).await;
    let day = Duration::from_secs(24 * 60 * 60);
    prepare(&coordinator, "waits", day, 1).await.unwrap();
    prepare(&coordinator, "stale", Duration::ZERO, 2).await.unwrap();
    let taken = prepare(&coordinator, "waits", day, 3).await.unwrap_err();
    assert!(matches!(taken.find(), Some(DistributedError::NameInUse { .. })), "{kind}: {taken}");

    let open = coordinator.list(&TransactionFilter::default()).await.unwrap();
    let seen: Vec<_> = open.iter().map(|entry| (entry.name.as_deref(), &*entry.status)).collect();
    assert_eq!(seen, [(Some("waits"), "prepared"), (Some("stale"), "prepared")], "{kind}: the oldest first");
    let waits = &open[0];
    assert_eq!((waits.principal.as_deref(), &*waits.kind, waits.home), (Some("ann"), "2pc", false), "{kind}");
    let wait = waits.deadline - waits.prepared_at.unwrap();
    let off = (wait.num_milliseconds() - 24 * 60 * 60 * 1_000).abs();
    assert!(off < 600_000, "{kind}: by the database's clock: {wait}");
    assert!(waits.age_ms < 600_000 && waits.prepared_at >= Some(waits.started_at), "{kind}: {waits:?}");
    let figures = coordinator.figures().await.unwrap();
    assert_eq!((figures.open, figures.waiting, figures.in_doubt, figures.manual), (2, 2, 0, 0), "{kind}");
    assert_eq!(figures.oldest, Some(waits.gid), "{kind}");

    let cleaned = coordinator.clean_up_once().await.unwrap();
    assert_eq!((cleaned.stale, cleaned.manual), (1, 0), "{kind}: {cleaned:?}");
    let stale = coordinator.find("stale").await.unwrap().unwrap();
    assert_eq!(&*stale.status, "cleaned_up", "{kind}");
    assert_eq!(stale.cleaned_up_reason.as_deref(), Some("stale_timeout"), "{kind}");
    assert!(stale.cleaned_up_at.is_some() && stale.finished_at.is_some(), "{kind}: {stale:?}");
    for (name, status) in [("waits", "pending"), ("stale", "cleaned_up")] {
        let query = format!("SELECT status FROM distributed_transactions WHERE id='{name}'");
        assert_eq!(text(&pool, &query).await, status, "{kind}");
    }
    let late = coordinator.named(Principal::new("ann")).commit_distributed("stale").await.unwrap_err();
    assert!(late.to_string().contains("stale_timeout"), "{kind}: {late}");

    // By hand, with a reason, and written down.
    let ann = Principal::new("ann");
    let refused = coordinator.resolve(&ann, waits.gid, Decision::Commit, " ").await.unwrap_err();
    assert!(matches!(refused, DistributedError::NoReason { .. }), "{kind}: {refused}");
    let refused = coordinator.forget(&ann, waits.gid, Forget::Finished, "tidy").await.unwrap_err();
    assert!(matches!(refused, DistributedError::StillOpen { .. }), "{kind}: {refused}");
    let resolved = coordinator.resolve(&ann, waits.gid, Decision::Commit, "it's paid").await.unwrap();
    assert_eq!((resolved.outcome, resolved.pending), (Outcome::Committed, false), "{kind}");
    let opposite = coordinator.resolve(&ann, waits.gid, Decision::Abort, "oh no").await.unwrap_err();
    assert!(matches!(opposite, DistributedError::AlreadyCommitted { .. }), "{kind}: {opposite}");
    let detail = coordinator.show(waits.gid).await.unwrap().unwrap();
    assert_eq!((&*detail.transaction.status, detail.branches.len()), ("committed", 1), "{kind}");
    assert_eq!((&*detail.branches[0].status, &*detail.branches[0].resource), ("committed", "side"), "{kind}");
    assert!(detail.transaction.decision_reason.as_deref().unwrap().contains("ann: it's paid"), "{kind}");
    let markers = "SELECT count(*) FROM dtx_marker";
    assert_eq!(number(&side.pool.clone().into(), markers).await, 1, "{kind}");
    coordinator.forget(&ann, waits.gid, Forget::Finished, "tidy").await.unwrap();
    assert_eq!(number(&side.pool.clone().into(), markers).await, 0, "{kind}: the marker went with it");
    assert!(coordinator.show(waits.gid).await.unwrap().is_none(), "{kind}");
    let audit = coordinator.audited(Some("waits"), 10).await.unwrap();
    let audit: Vec<_> =
        audit.iter().rev().map(|entry| format!("{}: {}", entry.action, entry.reason)).collect();
    let expected = ["forget: tidy", "resolve: it's paid", "resolve: oh no", "forget: tidy"];
    assert_eq!(audit, expected, "{kind}: it stays when the transaction is forgotten");

    // What is over goes after its time, and so does who did what.
    let short = Settings { kept_for: Duration::ZERO, audit_kept_for: Duration::ZERO, ..Settings::default() };
    let cleaned = connect(short).await.clean_up_once().await.unwrap();
    assert_eq!((cleaned.purged, cleaned.audit_purged), (1, 4), "{kind}: {cleaned:?}");
    let all = TransactionFilter { which: Which::All, ..TransactionFilter::default() };
    assert!(coordinator.list(&all).await.unwrap().is_empty(), "{kind}");
    let rows = sqlx::query_scalar::<_, i64>("SELECT id FROM entry").fetch_all(&side.pool).await.unwrap();
    assert_eq!(rows, [1], "{kind}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_the_same_on_every_database() {
    let (postgres, mariadb, sqlite) =
        (TestDatabase::postgres().await, TestDatabase::mariadb().await, TestDatabase::sqlite().await);
    for pool in [
        AnyPool::from(postgres.pool.clone()),
        AnyPool::from(mariadb.pool.clone()),
        AnyPool::from(sqlite.pool.clone()),
    ] {
        schema::apply(&pool).await.unwrap();
    }
    on_every_log(Arc::new(SqlDecisionLog::new(postgres.pool.clone())), postgres.pool.clone().into()).await;
    on_every_log(Arc::new(SqlDecisionLog::new(mariadb.pool.clone())), mariadb.pool.clone().into()).await;
    on_every_log(Arc::new(SqlDecisionLog::new(sqlite.pool.clone())), sqlite.pool.clone().into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_is_never_cleaned_up_and_needs_help_when_it_cannot_end() {
    let shop = Shop::new().await;
    let (proxy, away) = Proxy::in_front_of(&shop.users.url).await;
    let (settings, heard) = hearing(Settings {
        stale_after: Duration::ZERO,
        incomplete_after: Duration::ZERO,
        ..Settings::default()
    });
    let process = shop.process_at(&away, settings).await;
    process.begin("ann", "order-1", 1).await.unwrap();
    drop(proxy);
    let resolved =
        process.coordinator.named(Principal::new("ann")).commit_distributed("order-1").await.unwrap();
    assert!(
        resolved.pending && resolved.outcome == Outcome::Committed,
        "decided, and one branch has not confirmed it"
    );
    let log = &shop.pools()[0];
    let status = "SELECT status FROM distributed_transactions WHERE id='order-1'";
    assert_eq!(text(log, status).await, "partially_committed");

    let cleaned = process.coordinator.clean_up_once().await.unwrap();
    assert_eq!((cleaned.stale, cleaned.manual, cleaned.completed), (0, 1, 0), "{cleaned:?}");
    let entry = process.coordinator.find("order-1").await.unwrap().unwrap();
    assert_eq!((&*entry.status, entry.decision), ("requires_manual_intervention", Some(Decision::Commit)));
    assert!(entry.error_message.as_deref().unwrap().contains("users"), "it says which branch: {entry:?}");
    assert_eq!(text(log, status).await, "requires_manual_intervention");
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert!(heard.len() == 1 && heard[0].contains("users"), "{heard:?}");
    let figures = process.coordinator.figures().await.unwrap();
    assert_eq!((figures.open, figures.manual), (1, 1), "{figures:?}");

    // It is tried for ever: who reaches the database ends it.
    let direct = shop.process(Settings { incomplete_after: Duration::ZERO, ..Settings::default() }).await;
    let cleaned = direct.coordinator.clean_up_once().await.unwrap();
    assert_eq!((cleaned.manual, cleaned.completed), (0, 1), "{cleaned:?}");
    assert_eq!(text(log, status).await, "committed");
    assert!(shop.happened(1).await && shop.prepared(&direct).await == 0);
    process.close().await;
    direct.close().await;
}

/// A resource that refuses to end branches until somebody gives it the right to.
struct Locked {
    id: ResourceId,
    allowed: AtomicBool,
}

#[async_trait::async_trait]
impl Resource for Locked {
    fn id(&self) -> &ResourceId {
        &self.id
    }

    async fn prepared(&self, _: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        Ok(Vec::new())
    }

    async fn finish(&self, _: &BranchId, _: Decision) -> Result<Ack, RmError> {
        match self.allowed.load(Ordering::Relaxed) {
            true => Ok(Ack::Done),
            false => Err(RmError::Config("permission denied: grant the role the right".to_owned())),
        }
    }

    async fn forget(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    async fn health(&self) -> Health {
        Health { healthy: true, detail: String::new(), latency: Duration::ZERO }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_to_change_first_is_told_at_once_and_tried_for_ever() {
    let database = TestDatabase::postgres().await;
    let pool = AnyPool::from(database.pool.clone());
    schema::apply(&pool).await.unwrap();
    let locked = Arc::new(Locked { id: ResourceId::new("vault").unwrap(), allowed: AtomicBool::new(false) });
    let (settings, heard) = hearing(Settings::default());
    let log = Arc::new(SqlDecisionLog::new(database.pool.clone()));
    let coordinator =
        Coordinator::connect(log, [locked.clone() as Arc<dyn Resource>], settings).await.unwrap();
    let mut unit = DistributedUnitOfWork::new(&coordinator);
    let closures = FnParticipant::new(
        locked.id.clone(),
        |_| async { Ok(Vote::Prepared) },
        |_| async { Err(RmError::Unknown("never asked".to_owned())) },
        |_| async { Err(RmError::Unknown("never asked".to_owned())) },
    );
    unit.register_participant("vault", closures).unwrap();
    let named = coordinator.named(Principal::new("ann"));
    named.begin_distributed("order-1", unit, || async { Ok(()) }).await.unwrap();
    assert!(named.commit_distributed("order-1").await.unwrap().pending);
    let entry = coordinator.find("order-1").await.unwrap().unwrap();
    assert_eq!(entry.status, "requires_manual_intervention");
    assert!(entry.error_message.unwrap().contains("grant the role the right"));
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert!(
        heard.len() == 1 && heard[0].contains("vault") && heard[0].contains("grant the role"),
        "{heard:?}"
    );
    locked.allowed.store(true, Ordering::Relaxed);
    eventually(LONG, "it is over", || async {
        coordinator.recover_once().await.unwrap();
        coordinator.find("order-1").await.unwrap().unwrap().status == "committed"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_done_once_for_its_key() {
    let shop = Shop::new().await;
    let process = shop.process(Settings::default()).await;
    let log = Arc::new(SqlDecisionLog::new(process.log.clone()));
    let key = ProcessKey::new("payment-7").scope("shop");
    let runs = AtomicU32::new(0);
    let run = async |id: i64, fails: bool| {
        let (unit, work) = process.unit();
        let home = SqlHome::new(&log);
        unit.run_once(&home, &key, || async {
            runs.fetch_add(1, Ordering::Relaxed);
            work.insert(id).await?;
            let insert = sqlx::query("INSERT INTO entry(id)VALUES($1)").bind(id);
            sqlx::Executor::execute(&mut *home.connection().await?, insert).await?;
            if fails { Err(Error::new("no cover")) } else { Ok(format!("receipt {id}")) }
        })
        .await
    };
    let failed = run(1, true).await.unwrap_err();
    assert!(
        matches!(failed, ProcessError::Failed { .. }) && failed.to_string().contains("no cover"),
        "{failed}"
    );
    assert!(!shop.happened(1).await, "nothing of it stays, the key included");
    assert_eq!(run(2, false).await.unwrap(), Processed::Now("receipt 2".to_owned()));
    assert_eq!(run(3, false).await.unwrap(), Processed::Before("receipt 2".to_owned()));
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    assert!(shop.happened(2).await && !shop.happened(3).await && shop.prepared(&process).await == 0);
    assert_eq!(shop.logged("SELECT count(*) FROM entry").await, 1);
    assert_eq!(shop.logged("SELECT count(*) FROM idempotency_keys WHERE result IS NOT NULL").await, 1);
    process.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_end_is_given_up_by_hand_as_a_hazard() {
    let shop = Shop::new().await;
    let (proxy, away) = Proxy::in_front_of(&shop.users.url).await;
    let (settings, heard) = hearing(Settings::default());
    let process = shop.process_at(&away, settings).await;
    process.begin("ann", "order-1", 1).await.unwrap();
    let gid = process.coordinator.find("order-1").await.unwrap().unwrap().gid;
    drop(proxy);
    let ops = Principal::new("ops");
    process.coordinator.forget(&ops, gid, Forget::GiveUp, "the server burnt").await.unwrap();
    let entry = process.coordinator.find("order-1").await.unwrap().unwrap();
    assert_eq!((&*entry.status, entry.decision), ("heuristic_hazard", Some(Decision::Abort)));
    assert!(
        entry.finished_at.is_some()
            && entry.error_message.as_deref().unwrap().contains("ops: the server burnt")
    );
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert!(heard.iter().any(|what| what.contains("given up by hand, ops")), "{heard:?}");
    process.close().await;

    // It did not burn after all: what is prepared there follows what was decided.
    let direct = shop.process(Settings::default()).await;
    assert_eq!(shop.prepared(&direct).await, 1);
    let found = direct.coordinator.recover_once().await.unwrap();
    assert_eq!(found.orphans, 1, "{found:?}");
    assert!(!shop.happened(1).await && shop.prepared(&direct).await == 0);

    // An unnamed transaction that nobody has prepared cannot be committed from outside.
    let (mut unit, work) = direct.unit();
    unit.begin().await.unwrap();
    work.insert(2).await.unwrap();
    let refused = direct
        .coordinator
        .resolve(&ops, unit.transaction_id(), Decision::Commit, "please")
        .await
        .unwrap_err();
    assert!(matches!(refused, DistributedError::NotPrepared { .. }), "{refused}");
    let resolved =
        direct.coordinator.resolve(&ops, unit.transaction_id(), Decision::Abort, "it hangs").await.unwrap();
    assert_eq!(resolved.decision, Decision::Abort);
    let lost = unit.commit().await.unwrap_err();
    assert!(matches!(lost, DistributedError::Aborted { .. }), "{lost}");
    let unknown = direct.coordinator.resolve(&ops, Gid::fresh(), Decision::Abort, "?").await.unwrap_err();
    assert!(matches!(unknown, DistributedError::NotFound(_)), "{unknown}");
    assert!(!shop.happened(2).await && shop.prepared(&direct).await == 0);
    direct.close().await;
}

#[test]
fn a_process_that_dies_in_an_external_stage_leaves_a_trace() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let lives = runtime();
    let shop = lives.block_on(Shop::new());
    let dies = runtime();
    let (begun, wait) = std::sync::mpsc::sync_channel(1);
    let process = dies.block_on(shop.process(Settings::default()));
    let waiting = Duration::ZERO;
    dies.spawn(async move {
        let (unit, work) = process.unit();
        let charge = ExternalStage::new("charge the card", move || {
            let begun = begun.clone();
            async move {
                begun.send(()).unwrap();
                std::future::pending().await
            }
        });
        let named = process.coordinator.named(Principal::new("shop")).waiting_for(waiting);
        let operation = named.execute_distributed_operation("order-1", unit, || work.insert(1), vec![charge]);
        operation.await.unwrap();
    });
    wait.recv_timeout(LONG).unwrap();
    // Nothing runs to its end: as if it were killed.
    dies.shutdown_background();
    lives.block_on(async {
        let (settings, heard) = hearing(Settings { stale_after: Duration::ZERO, ..Settings::default() });
        let other = shop.process(settings).await;
        eventually(LONG, "it is cleaned up", || async {
            other.coordinator.clean_up_once().await.unwrap();
            shop.prepared(&other).await == 0
        })
        .await;
        let entry = other.coordinator.find("order-1").await.unwrap().unwrap();
        assert_eq!(entry.status, "cleaned_up");
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        assert!(heard.iter().any(|what| what.contains("charge the card")), "{heard:?}");
        assert!(!shop.happened(1).await);
        other.close().await;
        drop(shop);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thresholds_are_told_when_they_are_crossed_and_when_it_is_well_again() {
    let shop = Shop::new().await;
    let told: Arc<Mutex<Vec<Alarm>>> = Arc::default();
    let hook = Arc::clone(&told);
    let settings = Settings {
        thresholds: Thresholds { open_max: 1, prepared_max: Duration::ZERO, ..Thresholds::default() },
        on_threshold: Some(Arc::new(move |alarm: &Alarm| hook.lock().unwrap().push(alarm.clone()))),
        ..Settings::default()
    };
    let process = shop.process(settings).await;
    assert!(process.coordinator.look_once().await.unwrap().is_empty());
    process.begin("ann", "order-1", 1).await.unwrap();
    process.begin("ann", "order-2", 2).await.unwrap();
    let too_old = |alarms: &[Alarm]| alarms.iter().any(|alarm| alarm.figure == Figure::OldestPrepared);
    eventually(LONG, "a prepared branch is older than a second", || async {
        too_old(&process.coordinator.look_once().await.unwrap())
    })
    .await;
    let crossed = std::mem::take(&mut *told.lock().unwrap());
    let users = ResourceId::new("users").unwrap();
    let open = crossed.iter().find(|alarm| alarm.figure == Figure::Open).unwrap();
    assert_eq!((open.value, open.limit, open.over), (2, 1, false), "{crossed:?}");
    let old = crossed.iter().find(|alarm| alarm.figure == Figure::OldestPrepared).unwrap();
    assert_eq!((old.resource.as_ref(), old.over), (Some(&users), false), "MariaDB does not know the age");
    assert_eq!(crossed.len(), 2, "each once: {crossed:?}");
    let named = process.coordinator.named(Principal::new("ann"));
    named.commit_distributed("order-1").await.unwrap();
    named.rollback_distributed("order-2").await.unwrap();
    assert!(process.coordinator.look_once().await.unwrap().is_empty());
    let well = std::mem::take(&mut *told.lock().unwrap());
    assert!(well.len() == 2 && well.iter().all(|alarm| alarm.over), "{well:?}");

    let health = process.coordinator.health().await;
    assert!(health.healthy() && health.resources.len() == 2, "{health:?}");
    process.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_breaker_guards_beginnings_and_nothing_that_is_decided() {
    let shop = Shop::new().await;
    let (proxy, away) = Proxy::in_front_of(&shop.users.url).await;
    let breaker = CircuitBreaker { messages_min: std::num::NonZeroU32::MIN, ..CircuitBreaker::default() };
    let process = shop.process_at(&away, Settings { breaker: Some(breaker), ..Settings::default() }).await;
    // What the application wants is no failure of the service, and nor is a no.
    let (unit, _work) = process.unit();
    assert!(unit.run(|| async { Err::<(), _>(Error::new("changed my mind")) }).await.is_err());
    process.begin("ann", "order-1", 1).await.unwrap();
    assert_eq!(process.coordinator.circuit(None), Some(Circuit::Closed));
    drop(proxy);
    let mut failures = 0;
    let refused = loop {
        let error = process.begin("ann", &format!("order-2-{failures}"), 2).await.unwrap_err();
        match error.find::<DistributedError>() {
            Some(DistributedError::Branch { .. }) => failures += 1,
            Some(DistributedError::Unavailable(_)) => break error,
            _ => panic!("{error}"),
        }
    };
    // Two had gone well, so half of them are two failures.
    assert_eq!(failures, 2);
    let users = ResourceId::new("users").unwrap();
    assert!(refused.to_string().contains("unavailable"), "{refused}");
    assert_eq!(process.coordinator.circuit(Some(&users)), Some(Circuit::Open));
    assert!(!process.coordinator.health().await.healthy());
    assert_eq!(shop.logged("SELECT count(*) FROM dtx_transaction WHERE name='order-2-2'").await, 0);
    // It is open, and what is decided is carried out all the same, as far as it can be reached.
    let resolved =
        process.coordinator.named(Principal::new("ann")).commit_distributed("order-1").await.unwrap();
    assert_eq!(resolved.outcome, Outcome::Committed);
    let direct = shop.process(Settings { incomplete_after: Duration::ZERO, ..Settings::default() }).await;
    direct.coordinator.clean_up_once().await.unwrap();
    assert!(shop.happened(1).await && !shop.happened(2).await && shop.prepared(&direct).await == 0);
    process.close().await;
    direct.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_transaction_is_tried_again_only_when_nothing_of_it_stays() {
    let shop = Shop::new().await;
    let retry = TransactionRetry { pause: Duration::from_millis(1), ..TransactionRetry::default() };
    let process = shop.process(Settings { retry, ..Settings::default() }).await;
    let tries = Mutex::new(Vec::new());
    let ended = process.coordinator.retrying(|attempt| {
        let (unit, work) = process.unit();
        tries.lock().unwrap().push(unit.transaction_id());
        async move {
            // The first two lose against somebody who has the entry.
            let id = if attempt < 3 { 1 } else { 2 };
            unit.run(|| async {
                work.insert(2).await?;
                if id == 1 {
                    sqlx::Executor::execute(&mut *work.users.connection().await?, "SELECT 1/0")
                        .await
                        .unwrap_err();
                }
                Ok(attempt)
            })
            .await
        }
    });
    assert_eq!(ended.await.unwrap().0, 3);
    let mut gids = std::mem::take(&mut *tries.lock().unwrap());
    gids.dedup();
    assert_eq!(gids.len(), 3, "each with an id of its own");
    assert!(shop.happened(2).await);
    let once = process.coordinator.retrying(|_| {
        tries.lock().unwrap().push(Gid::fresh());
        async {
            Err::<(), _>(Error::from(DistributedError::InDoubt { gid: Gid::fresh(), reason: "?".to_owned() }))
        }
    });
    assert!(
        once.await.is_err() && tries.lock().unwrap().len() == 1,
        "what may have committed is not tried again"
    );
    process.close().await;
}
