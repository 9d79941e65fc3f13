//! What is not known: lost answers, branches ended by hand, orphans, databases that are away.

use std::sync::Arc;

use barid::{
    distributed::{BranchId, CoordinatorId, DistributedError, Gid, Heuristic, Settings, TwoPhaseStatus},
    store::AnyPool,
};
use barid_tests::{
    Proxy, eventually,
    transfer::{Bank, Scenario, impatient, number, run},
};

use super::place::{LONG, bank};

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
