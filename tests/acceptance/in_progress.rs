//! A duplicate that arrives while the first delivery is being handled: in progress, which is no attempt and no duplicate.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, Context, Headers, Memory, Message, Result, SqlIdempotency, SqlOutbox, SqlUnitOfWork, State, headers,
    store::{AnyPool, Backend, schema},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::TestDatabase;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced;

#[derive(Default)]
struct Gate {
    started: Notify,
    open: Notify,
}

async fn place_order(_: PlaceOrder, cx: Context, gate: State<Arc<Gate>>) -> Result<()> {
    gate.0.started.notify_one();
    gate.0.open.notified().await;
    cx.publish(OrderPlaced)
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("nack");
        Ok(())
    }
}

/// Two deliveries of one message at the same time, a third one later. Returns the rows of outbox, idempotency and attempts.
async fn check<DB: Backend>(pool: sqlx::Pool<DB>, any: AnyPool, count: impl AsyncFn(&'static str) -> i64) {
    schema::apply(&any).await.unwrap();
    let (gate, told, id) = (Arc::new(Gate::default()), Told::default(), Uuid::now_v7());
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .state(Arc::clone(&gate))
        .handler(place_order)
        .build()
        .unwrap();
    let delivery = |repeat| Delivery {
        headers: Headers::from_iter([
            (headers::ID, id.to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
        ]),
        body: "null".into(),
        source: "orders".into(),
        repeat,
        settlement: Box::new(told.clone()),
    };
    let first = tokio::spawn({
        let (bus, delivery) = (bus.clone(), delivery(Repeat::First));
        async move { bus.handle(delivery).await }
    });
    gate.started.notified().await;
    let said = bus.handle(delivery(Repeat::Possible)).await.unwrap_err().to_string();
    assert!(said.contains("being handled right now"), "{said}");
    assert_eq!(*told.0.lock().unwrap(), ["nack"]);
    assert_eq!(count("SELECT coalesce(sum(attempts), 0) FROM attempts").await, 0, "it was counted");
    gate.open.notify_one();
    first.await.unwrap().unwrap();
    bus.handle(delivery(Repeat::Possible)).await.unwrap();
    assert_eq!(*told.0.lock().unwrap(), ["nack", "ack", "ack"]);
    assert_eq!(count("SELECT count(*) FROM outbox").await, 1, "the message had a second effect");
    assert_eq!(count("SELECT count(*) FROM idempotency").await, 1);
}

#[tokio::test]
async fn postgres() {
    let database = TestDatabase::postgres().await;
    let pool = database.pool.clone();
    check(pool.clone(), pool.clone().into(), async |sql| {
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    })
    .await;
    database.drop_now().await;
}

#[tokio::test]
async fn mariadb() {
    let database = TestDatabase::mariadb().await;
    let pool = database.pool.clone();
    check(pool.clone(), pool.clone().into(), async |sql| {
        let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT CAST(({sql}) AS CHAR)")))
            .fetch_one(&pool)
            .await
            .unwrap();
        text.parse().unwrap()
    })
    .await;
    database.drop_now().await;
}
