//! From a RabbitMQ queue through batches into PostgreSQL: everything once, with one COMMIT for many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barid::{
    Batch, BatchPolicy, Bus, Destination, Error, Message, Outgoing, RabbitMq, Result, Sender, SqlIdempotency,
    SqlOutbox, SqlUnitOfWork, State, UnitGuard,
    store::{AnyPool, schema},
};
use barid_tests::{TestDatabase, eventually, names::unique, servers};
use futures::future::try_join_all;
use lapin::options::QueueDeleteOptions;
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use tokio_util::sync::CancellationToken;

const MESSAGES: i64 = 300;
const POISON: i64 = 150;
const SOON: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct Place {
    id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed {
    id: i64,
}

#[derive(Default)]
struct Largest(AtomicUsize);

async fn place(
    orders: Batch<Place>,
    mut db: UnitGuard<Postgres>,
    largest: State<Arc<Largest>>,
) -> Result<()> {
    largest.0.0.fetch_max(orders.len(), Ordering::Relaxed);
    let ids: Vec<_> = orders.iter().map(|order| order.message.id).collect();
    sqlx::query("INSERT INTO orders (id) SELECT * FROM unnest($1::bigint[])")
        .bind(&ids)
        .execute(&mut *db)
        .await?;
    for order in &orders {
        order.context().publish(Outgoing::new(Placed { id: order.message.id }).key(order.message.id))?;
    }
    if ids.contains(&POISON) { Err(Error::permanent("asked to fail")) } else { Ok(()) }
}

async fn number(database: &TestDatabase<Postgres>, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_handled_in_batches_and_each_message_once() {
    let database = TestDatabase::postgres().await;
    schema::apply(&AnyPool::from(database.pool.clone())).await.unwrap();
    sqlx::query("CREATE TABLE orders (id BIGINT PRIMARY KEY)").execute(&database.pool).await.unwrap();
    let (queue, dead) = (unique("batches"), unique("batches-dead"));
    let largest = Arc::new(Largest::default());
    let transport = RabbitMq::connect(&servers::amqp()).await.unwrap();
    let bus = Bus::builder(&queue)
        .transport(transport.clone())
        .unit_of_work(SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .dead_letters(&dead)
        .parallelism(2)
        .batch(BatchPolicy::of(25))
        .state(Arc::clone(&largest))
        .batch_handler(place)
        .build()
        .unwrap();
    bus.declare().await.unwrap();
    let sender = Sender::connect(&transport, "test").await.unwrap();
    let to = Destination::queue(&queue).unwrap();
    let send = |id| sender.send(Outgoing::new(Place { id }).to(to.clone()));
    try_join_all((0..MESSAGES).map(send)).await.unwrap();

    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (bus, stop) = (bus.clone(), stop.clone());
        async move { bus.run_until(stop.cancelled()).await }
    });
    eventually(SOON, "all messages are handled", async || {
        number(&database, "SELECT count(*) FROM orders").await == MESSAGES - 1
    })
    .await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(number(&database, "SELECT count(DISTINCT aggregateid) FROM outbox").await, MESSAGES - 1);
    assert_eq!(number(&database, "SELECT count(*) FROM outbox").await, MESSAGES - 1);
    assert_eq!(number(&database, "SELECT count(*) FROM idempotency").await, MESSAGES - 1);
    assert_eq!(number(&database, "SELECT count(*) FROM attempts").await, 0);
    let commits = number(&database, "SELECT count(DISTINCT xid) FROM outbox").await;
    assert!(commits < MESSAGES / 4, "{commits} commits for {MESSAGES} messages");
    assert!((2..=25).contains(&largest.0.load(Ordering::Relaxed)), "{}", largest.0.load(Ordering::Relaxed));

    let broker =
        lapin::Connection::connect(&servers::amqp(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    let left =
        async |queue: &str| channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!((left(&queue).await, left(&dead).await), (0, 1), "messages left: in the queue, dead letters");
    broker.close(200, "done".into()).await.unwrap();
    database.drop_now().await;
}
