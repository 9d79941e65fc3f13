//! What a route says about rows that can never be delivered.

use super::*;
use crate::lane::Poison;

fn relay(stage: &Stage, poison: Poison) -> Relay {
    Relay::builder(Arc::new(SqliteSource::new("main", stage.pool.clone())))
        .sink(Sink::new("broker", Arc::new(Transporting(stage.broker.clone()))))
        .route("queue:*", "broker", Order::Strict)
        .on_poison(poison)
        .build()
        .unwrap()
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.broker.answers("one", [Some(Outcome::Permanent("too large".to_owned()))]);
    for name in ["one", "two"] {
        stage.insert(name, Some("k"), "queue:a").await;
    }
    stage
}

async fn parked(stage: &Stage) -> Vec<(String, String)> {
    let parked = sqlx::query_as("SELECT type, state FROM relay_parked ORDER BY seq");
    parked.fetch_all(&stage.pool).await.unwrap()
}

#[tokio::test]
async fn skip_parks_the_row_alone_and_its_key_flows_on_after_a_restart_too() {
    let stage = stage().await;
    for (name, seen) in [("three", 3), ("four", 4)] {
        stage.insert(name, Some("k"), "queue:a").await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(relay(&stage, Poison::Skip).run_until(stop.clone().cancelled_owned()));
        stage.until("outbox", 0).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(stage.broker.names().len(), seen);
    }
    assert_eq!(stage.broker.names(), ["one", "two", "three", "four"]);
    assert_eq!(parked(&stage).await, [("one".to_owned(), "skipped".to_owned())]);
}

#[tokio::test]
async fn halt_stops_the_relay_and_leaves_everything_in_the_outbox() {
    let stage = stage().await;
    let ended = timeout(SOON, relay(&stage, Poison::Halt).run_until(std::future::pending())).await.unwrap();
    let said = ended.unwrap_err().to_string();
    for part in ["source main has halted at row 1", "says halt", "too large"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!((stage.broker.names().len(), parked(&stage).await.len()), (1, 0));
    stage.until("outbox", 2).await;
    // Repaired, it goes on where it stopped.
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay(&stage, Poison::Halt).run_until(stop.clone().cancelled_owned()));
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(stage.broker.names(), ["one", "one", "two"]);
}
