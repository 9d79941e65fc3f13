//! The outbox: what handlers send is stored with the commit and forwarded by the relay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barid::{Context, Error, Memory, Result, SqlOutbox, SqlUnitOfWork, State, store::AnyPool};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use barid_tests::{TestDatabase, eventually};
use sqlx::Sqlite;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::stage::{Journal, Place, Placed, bus, database, delivery};

async fn place(cmd: Place, cx: Context) -> Result<()> {
    cx.publish(Placed { id: cmd.id })?;
    cx.publish(Placed { id: cmd.id + 1 })?;
    if cmd.id < 0 { Err(Error::new("no")) } else { Ok(()) }
}

async fn stored(database: &TestDatabase<Sqlite>) -> Vec<String> {
    let rows = sqlx::query_scalar("SELECT CAST(payload AS TEXT) FROM outbox ORDER BY seq");
    rows.fetch_all(&database.pool).await.unwrap()
}

#[tokio::test]
async fn several_sends_are_stored_in_their_order_and_nothing_reaches_the_transport() {
    let (database, network) = (database().await, Memory::new());
    let unit = SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true);
    let bus = bus(&network).await.handler(place).unit_of_work(unit).outbox(SqlOutbox::new()).build().unwrap();
    bus.declare().await.unwrap();
    bus.handle(delivery(Uuid::now_v7(), -5)).await.unwrap_err();
    assert!(stored(&database).await.is_empty(), "a handler that failed has sent nothing");
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!(stored(&database).await, [r#"{"id":1}"#, r#"{"id":2}"#]);
    assert!(network.is_empty("orders"));
    database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_is_forwarded_and_handled_once_each() {
    async fn placed(event: Placed, journal: State<Journal>) -> Result<()> {
        journal.0.write(event.id.to_string());
        Ok(())
    }
    let (database, network, journal) = (database().await, Memory::new(), Journal::default());
    let unit = SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true);
    let orders =
        bus(&network).await.handler(place).unit_of_work(unit).outbox(SqlOutbox::new()).build().unwrap();
    let shipping =
        barid::Bus::builder("shipping").transport(network.clone()).subscribe("orders").parallelism(1);
    let shipping = shipping.handler(placed).state(journal.clone()).build().unwrap();
    shipping.declare().await.unwrap();
    let (stop, handled) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let relay = Relay::builder(source::open::source("orders", &AnyPool::Sqlite(database.pool.clone())))
        .sink(Sink::new("memory", Arc::new(network.clone())))
        .route("*", "memory", Order::Strict)
        .build()
        .unwrap();
    let relaying = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    let stopped = stop.clone().cancelled_owned();
    let receiving = tokio::spawn(async move { shipping.run_until(stopped).await });
    for id in [1, 11, 21] {
        orders.handle(delivery(Uuid::now_v7(), id)).await.unwrap();
        handled.fetch_add(2, Ordering::SeqCst);
        eventually(Duration::from_secs(30), "both are handled", async || {
            journal.read().len() == handled.load(Ordering::SeqCst)
        })
        .await;
    }
    stop.cancel();
    relaying.await.unwrap().unwrap();
    receiving.await.unwrap().unwrap();
    assert_eq!(journal.read(), ["1", "2", "11", "12", "21", "22"]);
    assert!(stored(&database).await.is_empty());
    database.drop_now().await;
}
