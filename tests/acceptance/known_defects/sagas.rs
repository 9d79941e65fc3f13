//! Sagas: updates that are lost, sagas that come back, sagas that a restart forgets.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use barid::{Result, RetryPolicy, Saga, SqlIdempotency, State, saga::by};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use crate::stage::{ORDERS, Place, Stage, run};

const SAGAS: &str = "SELECT count(*) FROM saga";
const REVISION: &str = "SELECT revision FROM saga";
const COUNTED: &str = "SELECT (data::jsonb->>'messages')::bigint FROM saga";
const DEAD: &str = "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'";

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    messages: u32,
}

fn counter<Args: 'static>(
    handler: impl barid::handler::IntoHandler<Place, Args>,
) -> barid::saga::Definition<Counter> {
    Saga::<Counter>::define("counter").starts_with(by("order", |order: &Place| order.id), handler)
}

async fn count(_: Place, mut counter: Saga<Counter>) -> Result<()> {
    counter.messages += 1;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w14_an_update_that_meets_others_every_time_is_not_dropped_in_silence() {
    /// Two messages that have both read the saga before one of them saves it.
    async fn count_together(
        message: Place,
        counter: Saga<Counter>,
        both: State<(Arc<AtomicUsize>, Barrier)>,
    ) -> Result<()> {
        if both.0.0.fetch_add(1, Ordering::SeqCst) > 0 {
            both.0.1.wait().await;
        }
        count(message, counter).await
    }
    let stage = Stage::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let bus = stage
        .bus()
        .saga(counter(count_together))
        .state((Arc::clone(&runs), Barrier::new(2)))
        .saga_conflict_retries_max(0)
        .retry(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
        .build()
        .unwrap();
    bus.declare().await.unwrap();
    let bus = run(bus);
    stage.place(1).await;
    stage.becomes(SAGAS, 1).await;
    stage.place(1).await;
    stage.place(1).await;
    stage.becomes(DEAD, 1).await;
    stage.becomes(COUNTED, 2).await;
    bus.stop().await;
    let told = "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters' AND headers::text LIKE \
                '%saga \\\\\"counter\\\\\" (order = 1, id %, revision 0)%'";
    assert_eq!(stage.number(told).await, 1, "the dead letter says where");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w15_a_repeated_start_of_a_completed_saga_leaves_no_zombie() {
    async fn complete(_: Place, mut counter: Saga<Counter>) -> Result<()> {
        counter.complete();
        Ok(())
    }
    let stage = Stage::new().await;
    let bus = stage.bus().saga(counter(complete)).idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    let bus = run(bus);
    let message = stage.place(1).await;
    stage.becomes("SELECT count(*) FROM saga WHERE completed_at IS NOT NULL", 1).await;
    // The same message, and another one that starts the same saga.
    stage.place_again(message, 1).await;
    stage.place(1).await;
    let waiting = format!("SELECT count(*) FROM queue_message WHERE queue = '{ORDERS}'");
    stage.becomes(&waiting, 0).await;
    bus.stop().await;
    assert_eq!((stage.number(SAGAS).await, stage.number(REVISION).await), (1, 0));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w16_a_restart_forgets_no_saga() {
    let stage = Stage::new().await;
    for messages in 1..=2 {
        let bus = stage.bus().saga(counter(count)).build().unwrap();
        bus.declare().await.unwrap();
        let bus = run(bus);
        stage.place(1).await;
        stage
            .becomes("SELECT coalesce(max((data::jsonb->>'messages')::bigint), 0) FROM saga", messages)
            .await;
        bus.stop().await;
    }
    assert_eq!(stage.number(SAGAS).await, 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w17_a_message_saves_its_saga_once() {
    let stage = Stage::new().await;
    let bus = stage.bus().saga(counter(count)).build().unwrap();
    bus.declare().await.unwrap();
    let bus = run(bus);
    for _ in 0..3 {
        stage.place(1).await;
    }
    stage.becomes("SELECT coalesce(max((data::jsonb->>'messages')::bigint), 0) FROM saga", 3).await;
    bus.stop().await;
    assert_eq!(stage.number(REVISION).await, 2);
    // Declared twice it would be; so that is refused.
    let twice = stage.bus().saga(counter(count)).saga(counter(count)).build().unwrap_err().to_string();
    assert!(twice.contains("saga \"counter\" is declared twice"), "{twice}");
    stage.end().await;
}
