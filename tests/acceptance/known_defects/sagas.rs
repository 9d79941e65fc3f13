//! Sagas: updates that get lost, sagas that come back from the dead, sagas that a restart forgets.

use barid::{
    Context, Destination, Message, Outgoing, Result, Saga, Sender, SqlIdempotency, SqlOutbox, SqlSchedule,
    saga::{Definition, by},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::stage::{ORDERS, Stage, effect, run};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counter.count")]
struct Count {
    counter: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counter.stop")]
struct Stop {
    counter: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.remind")]
struct Remind {
    id: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    counted: i64,
}

async fn count(_: Count, mut counter: Saga<Counter>) -> Result<()> {
    counter.counted += 1;
    Ok(())
}

async fn stop(_: Stop, mut counter: Saga<Counter>) -> Result<()> {
    counter.complete();
    Ok(())
}

fn counters() -> Definition<Counter> {
    Saga::<Counter>::define("counter")
        .starts_with(by("counter", |message: &Count| message.counter.clone()), count)
        .then(by("counter", |message: &Stop| message.counter.clone()), stop)
}

async fn send<M: Message>(stage: &Stage, message: M) -> Uuid {
    let id = Uuid::now_v7();
    send_again(stage, id, message).await;
    id
}

async fn send_again<M: Message>(stage: &Stage, id: Uuid, message: M) {
    let sender = Sender::connect(&stage.queue, "test").await.unwrap();
    let to = Destination::queue(ORDERS).unwrap();
    sender.send(Outgoing::new(message).id(id).to(to)).await.unwrap();
}

fn one() -> String {
    "one".to_owned()
}

const SAGAS: &str = "SELECT count(*) FROM saga";
const COMPLETED: &str = "SELECT count(*) FROM saga WHERE completed_at IS NOT NULL";
const COUNTED: &str = "SELECT coalesce(max((data::json->>'counted')::bigint), 0) FROM saga";
const HANDLED: &str = "SELECT count(*) FROM idempotency";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w14_no_update_of_a_saga_is_lost_and_no_second_one_begins() {
    const MESSAGES: i64 = 60;
    let stage = Stage::new().await;
    let bus = stage.bus().saga(counters()).idempotency(SqlIdempotency::new()).parallelism(8).build().unwrap();
    bus.declare().await.unwrap();
    for _ in 0..MESSAGES {
        send(&stage, Count { counter: one() }).await;
    }
    let bus = run(bus);
    stage.becomes(HANDLED, MESSAGES).await;
    bus.stop().await;
    assert_eq!((stage.number(SAGAS).await, stage.number(COUNTED).await), (1, MESSAGES));
    assert_eq!(stage.waiting("dead-letters").await, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w15_a_repeated_start_revives_no_completed_saga() {
    let stage = Stage::new().await;
    let bus = stage.bus().saga(counters()).idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    let bus = run(bus);
    let first = send(&stage, Count { counter: one() }).await;
    stage.becomes(SAGAS, 1).await;
    send(&stage, Stop { counter: one() }).await;
    stage.becomes(COMPLETED, 1).await;
    // The same message again, and a late one that would have started it.
    send_again(&stage, first, Count { counter: one() }).await;
    send(&stage, Count { counter: one() }).await;
    stage.becomes("SELECT count(*) FROM queue_message", 0).await;
    bus.stop().await;
    assert_eq!((stage.number(SAGAS).await, stage.number(COMPLETED).await), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w16_a_saga_survives_the_process() {
    let stage = Stage::new().await;
    let bus = || stage.bus().saga(counters()).build().unwrap();
    bus().declare().await.unwrap();
    for counted in 1..=3 {
        let running = run(bus());
        send(&stage, Count { counter: one() }).await;
        stage.becomes(COUNTED, counted).await;
        running.stop().await;
    }
    assert_eq!(stage.number(SAGAS).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn w17_a_saga_that_is_declared_twice_is_not_handled_twice() {
    let stage = Stage::new().await;
    let said = stage.bus().saga(counters()).saga(counters()).build().unwrap_err().to_string();
    assert!(said.contains("saga \"counter\" is declared twice"), "{said}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w20_a_deferred_message_leaves_once_with_outbox_and_unit_of_work() {
    async fn begin(cmd: crate::stage::Place, cx: Context) -> Result<()> {
        cx.defer(std::time::Duration::from_millis(50), Remind { id: cmd.id })?;
        Ok(())
    }
    async fn remind(cmd: Remind, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    let bus =
        stage.bus().handler(begin).handler(remind).outbox(SqlOutbox::new()).schedule(SqlSchedule::new());
    let bus = bus.idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    let (relay, bus) = (stage.relay(), run(bus));
    stage.place(1).await;
    stage.becomes("SELECT count(*) FROM effects", 1).await;
    stage.becomes("SELECT (SELECT count(*) FROM schedule) + (SELECT count(*) FROM outbox)", 0).await;
    bus.stop().await;
    relay.stop().await;
    assert_eq!((stage.number(HANDLED).await, stage.waiting("dead-letters").await), (2, 0));
    stage.end().await;
}
