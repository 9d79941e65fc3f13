//! One key that is refused for long, and others that are not to notice.

use super::*;

/// The rows of the key, many times what the relay has room for.
const ROWS: i64 = 500;

fn small() -> Settings {
    Settings {
        buffer_rows_max: 40,
        key_rows_max: 10,
        batch_rows: 10,
        retry_max: Duration::from_millis(50),
        ..Settings::default()
    }
}

/// Runs a relay against a key that is refused; other keys flow meanwhile, and all of it arrives in order once it is taken.
async fn refused(order: Order) {
    let stage = Stage::new().await;
    let busy = || Some(Outcome::Transient("busy".to_owned()));
    stage.broker.answers("s000", (0..100_000).map(|_| busy()));
    for at in 0..ROWS {
        stage.insert(&format!("s{at:03}"), Some("stuck"), "queue:a").await;
    }
    let relay = Relay::builder(Arc::new(SqliteSource::new("main", stage.pool.clone())))
        .sink(Sink::new("broker", Arc::new(Transporting(stage.broker.clone()))))
        .route("queue:*", "broker", order)
        .settings(small())
        .build()
        .unwrap();
    let (stats, stop) = (relay.stats(), CancellationToken::new());
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    for at in 0..100 {
        stage.insert("other", Some(&format!("k{at}")), "queue:a").await;
    }
    let others = async {
        while stage.broker.names().iter().filter(|name| *name == "other").count() < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, others).await.unwrap_or_else(|_| panic!("only {:?}", stage.broker.names()));
    let left_out = stats.borrow().left_out;
    assert!(left_out > 0, "the key had room for everything");
    stage.broker.script.lock().unwrap().clear();
    stage.until("outbox", 0).await;
    stop.cancel();
    let stats = running.await.unwrap().unwrap();
    assert_eq!(stats.confirmed, ROWS.unsigned_abs() + 100);
    let mut names = stage.broker.names();
    names.retain(|name| name != "other");
    names.dedup();
    if order == Order::Strict {
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.len(), usize::try_from(ROWS).unwrap(), "nothing came twice but the first");
    }
}

#[tokio::test]
async fn a_strict_key_that_is_refused_holds_up_no_other() {
    refused(Order::Strict).await;
}

#[tokio::test]
async fn a_pipelined_key_that_is_refused_holds_up_no_other() {
    refused(Order::Pipelined).await;
}
