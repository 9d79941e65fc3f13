//! What cannot end: cleaned up, told, given up by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DistributedError, DistributedUnitOfWork, ExternalStage,
        FnParticipant, Forget, Gid, Health, Principal, Resource, ResourceId, RmError, Settings,
        SqlDecisionLog, Vote,
        core::{Decision, Outcome},
    },
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase, eventually};

use super::{
    hearing::{LONG, hearing, text},
    shop::Shop,
};

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
