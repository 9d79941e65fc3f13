//! One message through a bus on SQLite: what commits, what rolls back, and what the transport is told.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Context, Headers, Message, Outgoing, Result, SqlIdempotency, SqlOutbox, SqlUnitOfWork,
    UnitGuard, headers,
    store::{AnyPool, schema},
    transport::{Delivery, Inbox, Repeat, Settlement, Transport, TransportError, memory::Memory},
};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Notify;
use uuid::Uuid;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    id: i64,
    fail: bool,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    id: i64,
}

async fn place_order(cmd: PlaceOrder, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.id).execute(&mut *db).await?;
    cx.publish(Outgoing::new(OrderPlaced { id: cmd.id }).key(cmd.id))?;
    if cmd.fail { Err(barid::Error::new("asked to fail")) } else { Ok(()) }
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

fn delivery(id: Uuid, body: &PlaceOrder, told: &Told) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, id.to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(body).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(told.clone()),
    }
}

async fn pool(folder: &tempfile::TempDir) -> SqlitePool {
    let url = format!("sqlite://{}/orders.db", folder.path().display());
    let pool = AnyPool::connect(&url, 4).await.unwrap();
    schema::apply(&pool).await.unwrap();
    #[allow(irrefutable_let_patterns)] // other databases are features
    let AnyPool::Sqlite(pool) = pool else { panic!("not SQLite") };
    sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)").execute(&pool).await.unwrap();
    pool
}

fn bus(pool: &SqlitePool) -> BusBuilder {
    Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .handler(place_order)
}

async fn counts(pool: &SqlitePool) -> (i64, i64, i64) {
    sqlx::query_as("SELECT (SELECT count(*) FROM orders),(SELECT count(*) FROM outbox),(SELECT count(*) FROM idempotency)")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn business_row_outbox_row_and_record_commit_together_and_a_duplicate_has_no_second_effect() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let bus = bus(&pool).build().unwrap();
    let (told, id) = (Told::default(), Uuid::now_v7());
    for _ in 0..3 {
        bus.handle(delivery(id, &PlaceOrder { id: 7, fail: false }, &told)).await.unwrap();
    }
    assert_eq!(counts(&pool).await, (1, 1, 1));
    assert_eq!(*told.0.lock().unwrap(), ["ack", "ack", "ack"]);
    let (destination, kind, key): (String, String, String) =
        sqlx::query_as("SELECT destination, aggregatetype, aggregateid FROM outbox")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((destination.as_str(), kind.as_str(), key.as_str()), ("topic:orders", "orders", "7"));
}

#[tokio::test]
async fn a_failing_handler_leaves_nothing_behind_but_its_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let bus = bus(&pool).build().unwrap();
    let told = Told::default();
    let error =
        bus.handle(delivery(Uuid::now_v7(), &PlaceOrder { id: 7, fail: true }, &told)).await.unwrap_err();
    assert_eq!(error.to_string(), "asked to fail");
    assert_eq!(counts(&pool).await, (0, 0, 0));
    assert_eq!(*told.0.lock().unwrap(), ["nack"]);
    let attempts: i64 = sqlx::query_scalar("SELECT attempts FROM attempts").fetch_one(&pool).await.unwrap();
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn a_savepoint_keeps_a_failed_statement_from_poisoning_the_unit() {
    async fn twice(cmd: PlaceOrder, mut db: UnitGuard<Sqlite>) -> Result<()> {
        sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.id).execute(&mut *db).await?;
        let mut savepoint = db.savepoint().await?;
        let again =
            sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.id).execute(&mut *savepoint).await;
        assert!(again.is_err());
        if cmd.fail { savepoint.release().await } else { savepoint.rollback().await }
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool.clone()))
        .handler(twice)
        .build()
        .unwrap();
    let told = Told::default();
    bus.handle(delivery(Uuid::now_v7(), &PlaceOrder { id: 1, fail: false }, &told)).await.unwrap();
    assert_eq!(counts(&pool).await.0, 1);
    bus.handle(delivery(Uuid::now_v7(), &PlaceOrder { id: 2, fail: true }, &told)).await.unwrap_err();
    assert_eq!(counts(&pool).await.0, 1, "a savepoint with a failed statement was released");
}

#[tokio::test]
async fn a_swallowed_error_does_not_commit_half_a_unit() {
    async fn swallow(cmd: PlaceOrder, mut db: UnitGuard<Sqlite>) -> Result<()> {
        sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.id).execute(&mut *db).await?;
        drop(sqlx::query("INSERT INTO nowhere (id) VALUES (1)").execute(&mut *db).await);
        Ok(())
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let unit = SqlUnitOfWork::new(pool.clone());
    let bus =
        Bus::builder("orders").transport(Memory::new()).unit_of_work(unit).handler(swallow).build().unwrap();
    let said = bus
        .handle(delivery(Uuid::now_v7(), &PlaceOrder { id: 1, fail: false }, &Told::default()))
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("savepoint"), "{said}");
    assert_eq!(counts(&pool).await.0, 0);
}

#[tokio::test]
async fn a_transaction_ended_by_hand_is_detected() {
    async fn by_hand(cmd: PlaceOrder, mut db: UnitGuard<Sqlite>) -> Result<()> {
        sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.id).execute(&mut *db).await?;
        sqlx::query(if cmd.fail { "ROLLBACK" } else { "COMMIT" }).execute(&mut *db).await?;
        Ok(())
    }
    for fail in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(&folder).await;
        let unit = SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true);
        let bus = Bus::builder("orders")
            .transport(Memory::new())
            .unit_of_work(unit)
            .outbox(SqlOutbox::new())
            .handler(by_hand)
            .build()
            .unwrap();
        let told = Told::default();
        let said = bus
            .handle(delivery(Uuid::now_v7(), &PlaceOrder { id: 1, fail }, &told))
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains("ended by a handler"), "{said}");
        assert_eq!(*told.0.lock().unwrap(), ["nack"]);
    }
}

#[test]
fn outbox_and_idempotency_without_commit_with_transaction_do_not_build() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(&folder).await;
        let said = bus(&pool).unit_of_work(SqlUnitOfWork::new(pool.clone())).build().unwrap_err().to_string();
        assert!(said.contains("BRD012") && said.contains("commit_with_transaction = true"), "{said}");
    });
}

#[tokio::test]
async fn a_handler_that_takes_the_process_with_it_does_not_loop_for_ever() {
    async fn fatal(_: PlaceOrder, started: barid::State<Arc<Notify>>) -> Result<()> {
        started.0.notify_one();
        // The process is gone: nothing after this runs, the delivery is never settled.
        std::future::pending().await
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let network = Memory::new();
    network.declare(&Inbox::new("dead-letters")).await.unwrap();
    let started = Arc::new(Notify::new());
    let bus = Bus::builder("orders")
        .transport(network.clone())
        .unit_of_work(SqlUnitOfWork::new(pool.clone()))
        .state(Arc::clone(&started))
        .handler(fatal)
        .build()
        .unwrap();
    let (told, id) = (Told::default(), Uuid::now_v7());
    let again = |repeat| Delivery { repeat, ..delivery(id, &PlaceOrder { id: 1, fail: false }, &told) };
    let mut crashes = 0;
    let mut next = again(Repeat::First);
    loop {
        tokio::select! {
            _ = bus.handle(next) => break,
            () = started.notified() => crashes += 1,
        }
        assert!(crashes < 100, "it loops");
        next = again(Repeat::Possible);
    }
    // The first delivery writes no counter, the repeats do.
    assert_eq!(crashes, barid::limits::ATTEMPTS_MAX + 1);
    assert_eq!(*told.0.lock().unwrap(), ["ack"]);
    let (headers, _) = network.peek("dead-letters").remove(0);
    let letter = barid::DeadLetter::read(&headers).unwrap();
    assert_eq!((letter.attempts, letter.queue.as_str()), (barid::limits::ATTEMPTS_MAX, "orders"));
    assert!(letter.handler.unwrap().contains("fatal") && letter.cause.contains("its process died"));
}
