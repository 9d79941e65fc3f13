//! Handlers that take several messages in one call.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Batch, BatchPolicy, Bus, Context, Error, Headers, Memory, Message, Outgoing, Result, SqlIdempotency,
    SqlOutbox, SqlUnitOfWork, State, headers,
    store::{AnyPool, schema},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::TestDatabase;
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct Place {
    id: i64,
    fails: bool,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.cancel")]
struct Cancel {
    id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed {
    id: i64,
}

#[derive(Default)]
struct Log {
    calls: Mutex<Vec<String>>,
    told: Mutex<Vec<&'static str>>,
}

struct Told(Arc<Log>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.told.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.told.lock().unwrap().push("nack");
        Ok(())
    }
}

fn delivery<M: Message>(log: &Arc<Log>, message: &M, key: &str) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, M::NAME.to_owned()),
            (headers::AGGREGATE, "orders".to_owned()),
            (headers::KEY, key.to_owned()),
        ]),
        body: serde_json::to_vec(message).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(Told(Arc::clone(log))),
    }
}

fn place(log: &Arc<Log>, id: i64, key: &str) -> Delivery {
    delivery(log, &Place { id, fails: false }, key)
}

async fn place_all(orders: Batch<Place>, cx: Context, State(log): State<Arc<Log>>) -> Result<()> {
    log.calls.lock().unwrap().push(format!("{:?}", orders.iter().map(|order| order.id).collect::<Vec<_>>()));
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO orders (id) ");
    insert.push_values(&orders, |mut row, order| {
        row.push_bind(order.message.id);
    });
    insert.build().execute(&mut *db).await?;
    for order in &orders {
        assert_eq!((order.attempt(), order.headers().get(headers::KEY)), (1, order.key()));
        order.context().publish(Outgoing::new(Placed { id: order.message.id }).key(order.message.id))?;
    }
    if orders.iter().any(|order| order.fails) { Err(Error::new("one of them fails")) } else { Ok(()) }
}

async fn count(orders: Vec<Place>, State(log): State<Arc<Log>>) -> Result<()> {
    log.calls.lock().unwrap().push(orders.len().to_string());
    if orders.iter().any(|order| order.fails) { Err(Error::new("asked to fail")) } else { Ok(()) }
}

async fn cancel(order: Cancel, State(log): State<Arc<Log>>) -> Result<()> {
    log.calls.lock().unwrap().push(format!("cancel {}", order.id));
    Ok(())
}

async fn world(log: &Arc<Log>) -> (TestDatabase<Sqlite>, Bus) {
    let database = TestDatabase::sqlite().await;
    schema::apply(&AnyPool::from(database.pool.clone())).await.unwrap();
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .batch(BatchPolicy::of(100))
        .state(Arc::clone(log))
        .batch_handler(place_all)
        .handler(cancel)
        .build()
        .unwrap();
    (database, bus)
}

/// Each event names the message that caused it.
async fn causes(database: &TestDatabase<Sqlite>) -> Vec<String> {
    sqlx::query_scalar("SELECT headers ->> '$.barid-causation-id' FROM outbox ORDER BY seq")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_batch_handler_gets_the_messages_of_its_type_in_one_call() {
    let log = Arc::default();
    let (database, bus) = world(&log).await;
    let deliveries = vec![
        place(&log, 1, "a"),
        delivery(&log, &Cancel { id: 9 }, "x"),
        place(&log, 2, "b"),
        delivery(&log, &Cancel { id: 3 }, "c"),
        place(&log, 3, "c"),
    ];
    let ids: Vec<_> =
        [0, 2, 4].map(|at: usize| deliveries[at].headers.get(headers::ID).unwrap().to_owned()).to_vec();
    assert!(bus.handle_batch(deliveries).await.iter().all(Result::is_ok));
    // 3 came after another message of its key: it did not join the first call.
    assert_eq!(*log.calls.lock().unwrap(), ["[1, 2]", "cancel 9", "cancel 3", "[3]"]);
    assert_eq!(*log.told.lock().unwrap(), ["ack"; 5]);
    assert_eq!(causes(&database).await, ids);
    database.drop_now().await;
}

#[tokio::test]
async fn when_a_batch_handler_fails_each_of_its_messages_is_handled_alone() {
    let log = Arc::default();
    let (database, bus) = world(&log).await;
    let failing = delivery(&log, &Place { id: 2, fails: true }, "b");
    let deliveries = vec![place(&log, 1, "a"), failing, place(&log, 3, "c")];
    let results = bus.handle_batch(deliveries).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(*log.calls.lock().unwrap(), ["[1, 2, 3]", "[1]", "[2]", "[3]"]);
    assert_eq!(*log.told.lock().unwrap(), ["ack", "nack", "ack"]);
    let orders: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM orders ORDER BY id").fetch_all(&database.pool).await.unwrap();
    assert_eq!((orders, causes(&database).await.len()), (vec![1, 3], 2));
    database.drop_now().await;
}

/// Without a unit of work there is nothing to roll back: who is done is done.
#[tokio::test]
async fn without_a_unit_of_work_each_message_is_done_by_itself() {
    let log = Arc::new(Log::default());
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .batch(BatchPolicy::of(10))
        .state(Arc::clone(&log))
        .batch_handler(count)
        .handler(cancel)
        .build()
        .unwrap();
    let failing = delivery(&log, &Place { id: 2, fails: true }, "b");
    let deliveries = vec![
        delivery(&log, &Cancel { id: 7 }, "x"),
        failing,
        place(&log, 3, "c"),
        delivery(&log, &Cancel { id: 8 }, "y"),
    ];
    let results = bus.handle_batch(deliveries).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(*log.calls.lock().unwrap(), ["cancel 7", "2", "1", "1", "cancel 8"]);
}
