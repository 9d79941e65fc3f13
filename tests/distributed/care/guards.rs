//! Thresholds, breakers, and tries of a whole transaction.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use barid::{
    Circuit, CircuitBreaker, Error,
    distributed::{
        Alarm, DistributedError, Figure, Gid, Principal, ProcessError, ProcessKey, Processed, ResourceId,
        Settings, SqlDecisionLog, SqlHome, Thresholds, TransactionRetry, core::Outcome,
    },
};
use barid_tests::{Proxy, eventually};

use super::{hearing::LONG, shop::Shop};

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
