//! What a relay does when its lease is not renewed, when it is refused, and when it is over.

use barid::store::held::HeldTransaction;

use super::*;
use crate::lease::LEASE_BOUNDS;

const SHORT: Duration = Duration::from_secs(2);

fn start(stage: &Stage, lease: Duration) -> (CancellationToken, JoinHandle<Stats>) {
    let retry_max = Duration::from_millis(20);
    let relay = stage.relay(Settings { lease, retry_max, ..Settings::default() });
    let stop = CancellationToken::new();
    let running = relay.run_until(stop.clone().cancelled_owned());
    (stop, tokio::spawn(async { running.await.unwrap() }))
}

async fn owner(stage: &Stage) -> (i64, String, Option<i64>) {
    let row = sqlx::query_as("SELECT epoch, owner, lease_until FROM relay_source");
    row.fetch_one(&stage.pool).await.unwrap()
}

/// While the file is locked nothing can be renewed: after two thirds of the lease nothing is published, and then it goes on.
#[tokio::test]
async fn without_a_renewal_it_stops_publishing_and_goes_on_when_it_can() {
    let stage = Stage::new().await;
    let busy = std::iter::repeat_with(|| Some(Outcome::Transient("busy".to_owned())));
    stage.broker.answers("one", busy.take(1_000_000));
    stage.insert("one", Some("k"), "queue:a").await;
    let (stop, running) = start(&stage, SHORT);
    stage.broker.saw(20).await;
    let lock = HeldTransaction::begin_immediate(&stage.pool).await.unwrap();
    // Time has to pass here: that is what ends a lease. A row that waits is sent again every 20 ms at the latest.
    let (mut before, mut silent) = (stage.broker.names().len(), 0);
    let silence = async {
        while silent < 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = stage.broker.names().len();
            silent = if now == before { silent + 1 } else { 0 };
            before = now;
        }
    };
    timeout(SOON, silence).await.expect("without a renewal it stops");
    lock.rollback().await.unwrap();
    stage.broker.saw(before + 20).await;
    let (epoch, ..) = owner(&stage).await;
    assert_eq!(epoch, 1, "nobody took over, so it is the same lease");
    stop.cancel();
    running.await.unwrap();
}

/// What another relay does by itself: it takes the lease of one that is paused.
async fn take_it_away(stage: &Stage) {
    let taken = "UPDATE relay_source SET epoch = epoch + 1, owner = 'another', process = 'another'";
    sqlx::query(taken).execute(&stage.pool).await.unwrap();
}

#[tokio::test]
async fn parking_with_an_old_epoch_changes_nothing_and_ends_the_session() {
    let stage = Stage::new().await;
    // So long that only the refused write can end the session, and only a release begin the next one.
    let (stop, running) = start(&stage, LEASE_BOUNDS.1);
    stage.insert("first", None, "queue:a").await;
    stage.until("outbox", 0).await;
    take_it_away(&stage).await;
    stage.insert_all([("lost", Some("k"), "topic:nowhere"), ("fine", Some("l"), "queue:a")]).await;
    // This one's deadline has not passed: it may publish, and what was confirmed is deleted.
    stage.broker.saw(2).await;
    stage.until("outbox", 1).await;
    assert_eq!(stage.count("relay_parked").await, 0, "but it may not park");
    let released = "UPDATE relay_source SET lease_until = NULL";
    sqlx::query(released).execute(&stage.pool).await.unwrap();
    stage.until("relay_parked", 1).await;
    let (epoch, owner, _) = owner(&stage).await;
    assert!(epoch == 3 && owner != "another", "{epoch} {owner}");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_clean_stop_releases_the_lease() {
    let stage = Stage::new().await;
    let (stop, running) = start(&stage, LEASE_BOUNDS.1);
    stage.insert("one", None, "queue:a").await;
    stage.until("outbox", 0).await;
    assert!(matches!(owner(&stage).await, (1, _, Some(_))));
    stop.cancel();
    running.await.unwrap();
    assert!(matches!(owner(&stage).await, (1, _, None)));
}

/// One that halts lets others try, too.
#[tokio::test]
async fn a_relay_that_ends_by_an_error_releases_the_lease() {
    let stage = Stage::new().await;
    let relay = stage.relay(Settings { lease: LEASE_BOUNDS.1, ..Settings::default() });
    let running = tokio::spawn(relay.run_until(std::future::pending()));
    stage.insert("one", None, "queue:a").await;
    stage.until("outbox", 0).await;
    sqlx::query("ALTER TABLE outbox RENAME TO outbox_of_old").execute(&stage.pool).await.unwrap();
    stage.pool.execute("CREATE TABLE poke (x INTEGER)").await.unwrap();
    let ended = timeout(SOON, running).await.unwrap().unwrap();
    assert!(matches!(ended, Err(RelayError::Source(_))), "{ended:?}");
    assert!(matches!(owner(&stage).await, (1, _, None)));
}
