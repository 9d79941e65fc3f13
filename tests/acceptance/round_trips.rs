//! What a handled message costs on the wire: two round trips beyond its handler's own, counted by the proxy.
//!
//! The idempotency record travels with the opening text, the outbox row and the deferred message with the closing text, and
//! connections are not tested between messages. Sagas are read with the opening text and saved with the closing one. No times
//! are measured here.

#![allow(clippy::unwrap_used)] // a test

use std::time::Duration;

use anyhow::Result;
use barid::{
    Bus, BusBuilder, Context, Headers, Message, Outgoing, Saga, SqlIdempotency, SqlOutbox, SqlSchedule,
    SqlUnitOfWork, UnitConnection, headers,
    saga::by,
    store::{AnyPool, Backend, schema},
    transport::{Delivery, Repeat, Settlement, TransportError, memory::Memory},
};
use barid_tests::{Proxy, TestDatabase};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Pool, Postgres, pool::PoolOptions};
use uuid::Uuid;

/// Handled at the same time. The pool has more connections than that.
const IN_FLIGHT: i64 = 4;
/// Each worker's messages before counting: the first ones connect and prepare the handler's statement.
const WARM_UP: i64 = 25;
/// Each worker's messages that are counted.
const COUNTED: i64 = 25;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    order: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    order: i64,
}

trait Subject: Backend {
    fn insert(
        db: &mut UnitConnection<Self>,
        order: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    async fn orders(pool: &Pool<Self>) -> i64;
}

impl Subject for Postgres {
    async fn insert(db: &mut UnitConnection<Self>, order: i64) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(order).execute(db).await.map(drop)
    }

    async fn orders(pool: &Pool<Self>) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(pool).await.unwrap()
    }
}

impl Subject for MySql {
    async fn insert(db: &mut UnitConnection<Self>, order: i64) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id) VALUES (?)").bind(order).execute(db).await.map(drop)
    }

    async fn orders(pool: &Pool<Self>) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(pool).await.unwrap()
    }
}

async fn place_order<DB: Subject>(command: PlaceOrder, cx: Context) -> barid::Result<()> {
    let mut db = cx.unit_of_work::<DB>().await?;
    DB::insert(&mut db, command.order).await?;
    if cx.headers().get(headers::REPLY_TO).is_some() {
        cx.reply(OrderPlaced { order: command.order })?;
    }
    cx.defer(Duration::from_secs(3_600), OrderPlaced { order: command.order })?;
    cx.publish(Outgoing::new(OrderPlaced { order: command.order }).key(command.order))
}

struct Settled;

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        panic!("the message failed")
    }
}

/// What the sender of a message wants besides that it is handled.
#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Nothing,
    /// An answer, kept with the record and sent through the outbox, and a result that can be polled for.
    Answers,
}

fn delivery(order: i64, wants: Wants) -> Delivery {
    let mut all = Headers::from_iter([
        (headers::ID, Uuid::now_v7().to_string()),
        (headers::TYPE, PlaceOrder::NAME.to_owned()),
    ]);
    if wants == Wants::Answers {
        all.set(headers::REPLY_TO, "queue:shop");
        all.set(headers::RESULT, "true");
    }
    Delivery {
        headers: all,
        body: serde_json::to_vec(&PlaceOrder { order }).unwrap().into(),
        source: "orders".to_owned(),
        repeat: Repeat::First,
        settlement: Box::new(Settled),
    }
}

/// Each worker has one, and every message of the worker changes it.
#[derive(Default, Serialize, Deserialize)]
struct Worker {
    orders: i64,
}

async fn count_order(_: PlaceOrder, mut worker: Saga<Worker>) -> barid::Result<()> {
    worker.orders += 1;
    Ok(())
}

fn with_saga(bus: BusBuilder) -> BusBuilder {
    let worker = by("worker", |order: &PlaceOrder| order.order % IN_FLIGHT);
    bus.saga(Saga::<Worker>::define("workers").starts_with(worker, count_order))
}

async fn counted<DB: Subject>(
    database: &TestDatabase<DB>,
    wants: Wants,
    more: impl Fn(BusBuilder) -> BusBuilder,
) -> u64
where
    AnyPool: From<Pool<DB>>,
{
    schema::apply(&database.pool.clone().into()).await.unwrap();
    let (proxy, url) = Proxy::in_front_of(&database.url).await;
    let connections = u32::try_from(IN_FLIGHT).unwrap() + 4;
    let pool = PoolOptions::<DB>::new().max_connections(connections).connect(&url).await.unwrap();
    let bus = more(Bus::builder("order-desk"))
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .schedule(SqlSchedule::new())
        .handler(place_order::<DB>)
        .build()
        .unwrap();
    let handle = |messages: std::ops::Range<i64>| {
        try_join_all((0..IN_FLIGHT).map(|worker| {
            let (bus, messages) = (bus.clone(), messages.clone());
            async move {
                for number in messages {
                    bus.handle(delivery(number * IN_FLIGHT + worker, wants)).await?;
                }
                Ok::<_, barid::Error>(())
            }
        }))
    };
    handle(0..WARM_UP).await.unwrap();
    proxy.reset();
    handle(WARM_UP..WARM_UP + COUNTED).await.unwrap();
    let round_trips = proxy.round_trips();
    assert_eq!(DB::orders(&database.pool).await, (WARM_UP + COUNTED) * IN_FLIGHT);
    pool.close().await;
    round_trips
}

/// Opening text, the handler's insert, closing text; exactly.
const EXPECTED: u64 = 3 * (COUNTED * IN_FLIGHT).unsigned_abs();

#[tokio::test]
async fn a_message_on_postgres_costs_two_round_trips_beyond_its_handlers_own() {
    let database = TestDatabase::postgres().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Nothing, |bus| bus).await, EXPECTED);
    database.drop_now().await;
}

/// That the saga of each worker was started by its first message and changed by every other one.
const SAGAS: &str = "SELECT count(*) FROM saga WHERE revision = 49 AND data = '{\"orders\":50}'";

#[tokio::test]
async fn a_saga_on_postgres_costs_no_round_trip() {
    let database = TestDatabase::postgres().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Nothing, with_saga).await, EXPECTED);
    let sagas: i64 = sqlx::query_scalar(SAGAS).fetch_one(&database.pool).await.unwrap();
    assert_eq!(sagas, IN_FLIGHT);
    database.drop_now().await;
}

#[tokio::test]
async fn a_saga_on_mariadb_costs_no_round_trip() {
    let database = TestDatabase::mariadb().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Nothing, with_saga).await, EXPECTED);
    let sagas: i64 = sqlx::query_scalar(SAGAS).fetch_one(&database.pool).await.unwrap();
    assert_eq!(sagas, IN_FLIGHT);
    database.drop_now().await;
}

#[tokio::test]
async fn a_message_on_mariadb_costs_two_round_trips_beyond_its_handlers_own() {
    let database = TestDatabase::mariadb().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Nothing, |bus| bus).await, EXPECTED);
    database.drop_now().await;
}

/// The answers that were kept with their records, and as results.
const KEPT: &str = "SELECT count(*) FROM idempotency i JOIN result r ON r.message_id = i.message_id \
                    WHERE i.reply IS NOT NULL AND r.state = 'succeeded'";

#[tokio::test]
async fn an_answer_on_postgres_costs_no_round_trip() {
    let database = TestDatabase::postgres().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Answers, |bus| bus).await, EXPECTED);
    let kept: i64 = sqlx::query_scalar(KEPT).fetch_one(&database.pool).await.unwrap();
    assert_eq!(kept, (WARM_UP + COUNTED) * IN_FLIGHT);
    database.drop_now().await;
}

#[tokio::test]
async fn an_answer_on_mariadb_costs_no_round_trip() {
    let database = TestDatabase::mariadb().await;
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    assert_eq!(counted(&database, Wants::Answers, |bus| bus).await, EXPECTED);
    let kept: i64 = sqlx::query_scalar(KEPT).fetch_one(&database.pool).await.unwrap();
    assert_eq!(kept, (WARM_UP + COUNTED) * IN_FLIGHT);
    database.drop_now().await;
}
