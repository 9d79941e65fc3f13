//! Messages that come again: headers, ids, acknowledgements, attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barid::{
    Attempt, Context, DuplicatePolicy, Error, Headers, Message, Result, SqlIdempotency, State, headers,
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::stage::{ORDERS, Place, Stage, effect, run};

const EFFECTS: &str = "SELECT count(*) FROM effects";
const DEAD: &str = "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'";

type Seen<T> = mpsc::Sender<T>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w18_the_mark_of_a_duplicate_is_absent_on_the_first_delivery() {
    async fn place(
        cmd: Place,
        cx: Context,
        headers: Headers,
        marks: State<Seen<Option<String>>>,
    ) -> Result<()> {
        let mark = headers.get(headers::DUPLICATE).map(str::to_owned);
        if mark.is_none() {
            effect(&cx, cmd.id).await?;
        }
        Ok(marks.0.send(mark).await?)
    }
    let (marks, mut seen) = mpsc::channel(10);
    let stage = Stage::new().await;
    let again = SqlIdempotency::new().duplicates(DuplicatePolicy::Invoke);
    let bus = stage.bus().handler(place).state(marks).idempotency(again).build().unwrap();
    bus.declare().await.unwrap();
    let message = stage.place(1).await;
    let bus = run(bus);
    assert_eq!(seen.recv().await, Some(None));
    stage.becomes("SELECT count(*) FROM idempotency", 1).await;
    stage.place_again(message, 1).await;
    assert_eq!(seen.recv().await, Some(Some("true".to_owned())));
    bus.stop().await;
    assert_eq!(stage.number(EFFECTS).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn w19_messages_without_an_id_are_not_taken_for_one_another() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    let bus = stage.bus().handler(place).idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    for id in 1..=3 {
        let settled = Settled::default();
        let said = bus.handle(delivery(None, id, &settled)).await.unwrap_err().to_string();
        assert!(said.contains(headers::ID), "{said}");
        assert_eq!(settled.acks(), 1, "it is with the dead letters");
    }
    assert_eq!((stage.number(EFFECTS).await, stage.number(DEAD).await), (0, 3));
    let bodies = "SELECT count(DISTINCT body) FROM queue_message WHERE queue = 'dead-letters'";
    assert_eq!(stage.number(bodies).await, 3);
    let none = "SELECT count(*) FROM queue_message WHERE headers::text LIKE '%None%'";
    assert_eq!(stage.number(none).await, 0, "what is missing is absent");
    stage.end().await;
}

#[tokio::test]
async fn w21_an_acknowledgement_that_fails_has_no_second_effect() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    let bus = stage.bus().handler(place).idempotency(SqlIdempotency::new()).build().unwrap();
    let (message, settled) = (Uuid::now_v7(), Settled { fails: true, ..Settled::default() });
    bus.handle(delivery(Some(message), 1, &settled)).await.unwrap();
    assert_eq!(
        (settled.acks(), stage.number(EFFECTS).await),
        (1, 1),
        "it was tried, and what is durable stays"
    );
    let settled = Settled::default();
    bus.handle(delivery(Some(message), 1, &settled)).await.unwrap();
    assert_eq!((settled.acks(), stage.number(EFFECTS).await), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w25_attempts_are_paced_and_survive_the_process() {
    async fn place(_: Place, attempt: Attempt, seen: State<Seen<u32>>) -> Result<()> {
        seen.0.send(attempt.0).await?;
        Err(Error::new("not today"))
    }
    let (seen, mut attempts) = mpsc::channel(10);
    let stage = Stage::new().await;
    let bus = || stage.bus().handler(place).state(seen.clone()).build().unwrap();
    bus().declare().await.unwrap();
    stage.place(1).await;
    // Each attempt is made by a bus that knows nothing of the one before.
    for attempt in 1..=3_u32 {
        let running = run(bus());
        assert_eq!(attempts.recv().await, Some(attempt));
        running.stop().await;
    }
    let running = run(bus());
    stage.becomes(DEAD, 1).await;
    running.stop().await;
    assert_eq!(stage.waiting(ORDERS).await, 0);
    // The pause grows, and never beyond its bound.
    let policy = barid::RetryPolicy::default();
    let pause = |attempts| match policy.decide(attempts, 1.0) {
        barid::retry::Decision::Again(pause) => pause,
        barid::retry::Decision::DeadLetter => panic!("attempt {attempts} is not the last"),
    };
    assert!(pause(policy.attempts_max - 1) > pause(1));
    assert!(pause(policy.attempts_max - 1) <= policy.pause_max);
    stage.end().await;
}

#[tokio::test]
async fn w27_a_message_of_an_unknown_name_runs_nothing_and_is_kept() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    let bus = stage.bus().handler(place).build().unwrap();
    bus.declare().await.unwrap();
    for name in ["known_defects::stage::Place", "std::process::Command", "orders.placed"] {
        let settled = Settled::default();
        let mut foreign = delivery(Some(Uuid::now_v7()), 1, &settled);
        foreign.headers.set(headers::TYPE, name);
        let said = bus.handle(foreign).await.unwrap_err().to_string();
        assert!(said.contains(name) && said.contains("orders.place"), "{said}");
    }
    assert_eq!((stage.number(EFFECTS).await, stage.number(DEAD).await), (0, 3));
    stage.end().await;
}

fn delivery(message: Option<Uuid>, id: i64, settled: &Settled) -> Delivery {
    let mut all = Headers::from_iter([(headers::TYPE, Place::NAME)]);
    if let Some(message) = message {
        all.set(headers::ID, message.to_string());
    }
    Delivery {
        headers: all,
        body: serde_json::to_vec(&Place { id }).unwrap().into(),
        source: ORDERS.into(),
        repeat: Repeat::First,
        settlement: Box::new(settled.clone()),
    }
}

/// Counts what the transport is told, and can fail.
#[derive(Clone, Default)]
struct Settled {
    acks: Arc<AtomicUsize>,
    fails: bool,
}

impl Settled {
    fn acks(&self) -> usize {
        self.acks.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.acks.fetch_add(1, Ordering::SeqCst);
        if self.fails {
            return Err(TransportError::Database("the connection is gone".to_owned()));
        }
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}
