//! The bus of the table, its messages, and what each of them does.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    BatchPolicy, Bus, Context, Error, Headers, Memory, Message, Outgoing, Result, RetryPolicy,
    SqlIdempotency, SqlOutbox, State, Transport, headers,
    transport::{Consumer, Delivery, Inbox, Promises, Publisher, Repeat, Settlement, TransportError},
};
use barid_tests::eventually;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::world::{Kind, World, statement};

/// What a handler does after its business row and its event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Do {
    #[default]
    Nothing,
    Error,
    Permanent,
    Panic,
    Poison,
    KeepGuard,
    FailBeforeCommit,
    FailInCommit,
    Commit,
    RefuseCommit,
}

/// What happened to a message before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    New,
    Handled,
    /// Delivered again, with so many attempts on record.
    Repeat(i64),
    InProgress,
}

/// One message of a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    number: usize,
    does: Do,
    key: Option<&'static str>,
    pub(crate) stage: Stage,
    /// The same message as that one.
    pub(crate) twin_of: Option<usize>,
}

impl Place {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    pub(crate) fn does(self, does: Do) -> Self {
        Self { does, ..self }
    }

    pub(crate) fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(crate) fn order(&self) -> i64 {
        i64::try_from(self.number).unwrap()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) idempotency: bool,
    pub(crate) orders_keys: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { idempotency: true, orders_keys: true }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    number: usize,
    does: Do,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced;

/// One case: its bus, and what was seen.
pub(crate) struct Run {
    world: Arc<World>,
    bus: Bus,
    seen: Arc<Seen>,
    places: Vec<Place>,
    ids: Vec<Uuid>,
}

pub(crate) struct Seen {
    kind: Kind,
    ran: Mutex<Vec<usize>>,
    told: Mutex<Vec<(usize, &'static str)>>,
}

impl Run {
    pub(crate) async fn new(world: Arc<World>, setup: Setup, places: Vec<Place>) -> Self {
        let seen = Arc::new(Seen { kind: world.kind, ran: Mutex::default(), told: Mutex::default() });
        let bus = Bus::builder("orders")
            .transport(Network { memory: Memory::new(), orders_keys: setup.orders_keys })
            .outbox(SqlOutbox::new())
            .retry(RetryPolicy { pause: Duration::from_millis(1), ..RetryPolicy::default() })
            .batch(BatchPolicy::of(10))
            .state(Arc::clone(&seen))
            .handler(place_order);
        let bus = if setup.idempotency { bus.idempotency(SqlIdempotency::new()) } else { bus };
        let bus = world.unit_of_work(bus).build().unwrap();
        bus.declare().await.unwrap();
        let mut ids: Vec<Uuid> = places.iter().map(|_| Uuid::now_v7()).collect();
        for (at, place) in places.iter().enumerate() {
            if let Some(twin) = place.twin_of {
                ids[at] = ids[twin];
            }
        }
        Self { world, bus, seen, places, ids }
    }

    /// Handles the messages as one batch.
    pub(crate) async fn handle(&self) {
        let mut blockers = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            match place.stage {
                Stage::Handled => {
                    self.bus.handle(self.delivery(at)).await.unwrap();
                    self.seen.told.lock().unwrap().clear();
                }
                Stage::Repeat(attempts) if attempts > 0 => self.world.tried(self.ids[at], attempts).await,
                Stage::InProgress => blockers.push(self.handled_elsewhere(at).await),
                Stage::New | Stage::Repeat(_) => {}
            }
        }
        let deliveries = (0..self.places.len()).map(|at| self.delivery(at)).collect();
        let results = self.bus.handle_batch(deliveries).await;
        for (at, result) in results.into_iter().enumerate() {
            // A dead letter is acknowledged, and its handling failed.
            let dead = self.places[at].does == Do::Permanent;
            assert_eq!(result.is_ok() || dead, self.told(at) == "ack", "message {at}: {result:?}");
        }
        for (release, blocker) in blockers {
            release.notify_one();
            blocker.await.unwrap();
        }
    }

    /// Delivers the messages again, one by one, until each is acknowledged: what was dropped may still be in progress.
    pub(crate) async fn handle_each(&self) {
        for at in 0..self.places.len() {
            eventually(Duration::from_secs(20), &format!("message {at} is acknowledged"), async || {
                self.bus.handle(self.delivery(at)).await.is_ok()
            })
            .await;
        }
    }

    /// Another bus of the same name handles the message until it is told to fail.
    async fn handled_elsewhere(&self, at: usize) -> (Arc<Notify>, tokio::task::JoinHandle<()>) {
        let (started, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begun, wait) = (Arc::clone(&started), Arc::clone(&release));
        let handler = move |_: PlaceOrder, _: Context| {
            let (begun, wait) = (Arc::clone(&begun), Arc::clone(&wait));
            async move {
                begun.notify_one();
                wait.notified().await;
                Err(Error::later("told to fail"))
            }
        };
        let bus = Bus::builder("orders")
            .transport(Memory::new())
            .idempotency(SqlIdempotency::new())
            .handler(handler);
        let bus = self.world.unit_of_work(bus).build().unwrap();
        let mut delivery = self.delivery(at);
        delivery.settlement = Box::new(Told(usize::MAX, Arc::clone(&self.seen)));
        let task = tokio::spawn(async move { bus.handle(delivery).await.unwrap_err().to_string().clear() });
        started.notified().await;
        (release, task)
    }

    pub(crate) fn ran(&self) -> Vec<usize> {
        self.seen.ran.lock().unwrap().clone()
    }

    pub(crate) fn told(&self, at: usize) -> String {
        let told = self.seen.told.lock().unwrap();
        told.iter().filter(|(of, _)| *of == at).map(|(_, what)| *what).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn id(&self, at: usize) -> Uuid {
        self.ids[at]
    }

    fn delivery(&self, at: usize) -> Delivery {
        let place = &self.places[at];
        let body = PlaceOrder { number: place.twin_of.unwrap_or(place.number), does: place.does };
        let mut headers = Headers::from_iter([
            (headers::ID, self.ids[at].to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
        ]);
        if let Some(key) = place.key {
            headers.set(headers::AGGREGATE, "orders");
            headers.set(headers::KEY, key);
        }
        Delivery {
            headers,
            body: serde_json::to_vec(&body).unwrap().into(),
            source: "orders".into(),
            repeat: if matches!(place.stage, Stage::Repeat(_)) { Repeat::Possible } else { Repeat::First },
            settlement: Box::new(Told(at, Arc::clone(&self.seen))),
        }
    }
}

async fn place_order(cmd: PlaceOrder, cx: Context, State(seen): State<Arc<Seen>>) -> Result<()> {
    let PlaceOrder { number, does } = cmd;
    seen.ran.lock().unwrap().push(number);
    let run = async |sql: String, keep| statement(&cx, seen.kind, sql, keep).await;
    let refused = does == Do::RefuseCommit && seen.kind != Kind::MariaDb;
    let parent = if refused { "-1" } else { "NULL" };
    run(format!("INSERT INTO orders (id, parent) VALUES ({number}, {parent})"), false).await?;
    // MariaDB checks nothing as late as COMMIT, but its outbox takes no longer key.
    let key = if does == Do::RefuseCommit { "k".repeat(1001) } else { number.to_string() };
    cx.publish(Outgoing::new(OrderPlaced).key(key).header("order", number.to_string()))?;
    match does {
        Do::Nothing | Do::RefuseCommit => {}
        Do::Error => return Err(Error::new("asked to fail")),
        Do::Permanent => return Err(Error::permanent("asked to fail for good")),
        Do::Panic => panic!("asked to panic"),
        Do::Poison => assert!(run("INSERT INTO nowhere VALUES (1)".into(), false).await.is_err()),
        Do::KeepGuard => {
            let guard = run("SELECT 1".into(), true).await?;
            cx.transaction().on_rollback(async move || {
                drop(guard);
                Ok(())
            })?;
        }
        Do::FailBeforeCommit => cx.transaction().before_commit(async || Err(Error::new("asked to fail")))?,
        Do::FailInCommit => cx.transaction().on_commit(async || Err(Error::new("asked to fail")))?,
        // In a batch it is refused, alone it runs.
        Do::Commit => drop(run("COMMIT".into(), false).await),
    }
    Ok(())
}

/// Writes down what the transport is told about a message.
struct Told(usize, Arc<Seen>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.1.told.lock().unwrap().push((self.0, "ack"));
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.1.told.lock().unwrap().push((self.0, "nack"));
        Ok(())
    }
}

/// A network that may promise to keep the order of keys: what it hands out comes from the test.
struct Network {
    memory: Memory,
    orders_keys: bool,
}

#[async_trait::async_trait]
impl Transport for Network {
    fn promises(&self) -> Promises {
        Promises { orders_keys: self.orders_keys, ..self.memory.promises() }
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.memory.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        self.memory.consumer(inbox).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        self.memory.publisher().await
    }
}
