//! Deferred messages through the public API: from a handler with unit of work, outbox and idempotency, over a restart, to
//! the same bus, on every database and through every broker. The brokers need no plug-in.

#![allow(clippy::unwrap_used)] // a test

#[path = "deferring/desk.rs"]
mod desk;

use std::{collections::BTreeSet, time::Duration};

use barid::{
    BuildError, Bus, Destination, Kafka, Memory, MemorySchedule, Outgoing, RabbitMq, Sender, SqlOutbox,
    SqlQueue, SqlSchedule, SqlUnitOfWork, Transport,
    store::{AnyPool, schema},
};
use barid_tests::{TestDatabase, eventually, names, servers};
use sqlx::Pool;

use desk::{Desk, Pay, Place, Subject, Wait, place};

/// Bounds every wait that ends with an event.
const PATIENCE: Duration = Duration::from_secs(60);
const ORDERS: i64 = 12;

/// What the journal says about `what`: order and message.
async fn noted<DB: Subject>(pool: &Pool<DB>, what: &str) -> BTreeSet<(String, String)> {
    let all = DB::journal(pool).await;
    let entries = all.iter().filter_map(|entry| {
        let mut words = entry.split(' ');
        (words.next() == Some(what))
            .then(|| (words.next().unwrap().to_owned(), words.next().unwrap().to_owned()))
    });
    let entries: Vec<_> = entries.collect();
    let distinct: BTreeSet<_> = entries.iter().cloned().collect();
    assert_eq!(distinct.len(), entries.len(), "{what}: something happened twice: {entries:?}");
    distinct
}

async fn noted_becomes<DB: Subject>(pool: &Pool<DB>, what: &str, count: usize) {
    let said = format!("{count} times {what}");
    eventually(PATIENCE, &said, async || noted(pool, what).await.len() >= count).await;
}

/// Orders are placed, each with a reminder in an hour; one order in four fails at first. One is paid, which cancels its
/// reminder. The bus stops and another one starts; the hour passes; every other order is reminded of, once.
async fn story<DB: Subject>(database: TestDatabase<DB>, transport: impl Transport + Clone)
where
    AnyPool: From<Pool<DB>>,
{
    let pool = database.pool.clone();
    schema::apply(&pool.clone().into()).await.unwrap();
    DB::prepare(&pool).await;
    let desk = Desk { pool: pool.clone(), transport: transport.clone(), name: names::unique("desk") };
    let (bus, relay) = (desk.start().await, desk.relay());
    let sender = Sender::connect(&transport, "test").await.unwrap();
    let queue = Destination::queue(desk.name.clone()).unwrap();
    for order in 1..=ORDERS {
        sender.send(Outgoing::new(Place { order }).key(order).to(queue.clone())).await.unwrap();
    }
    sender.send(Outgoing::new(Wait { order: 1 }).key(1).to(queue.clone())).await.unwrap();
    noted_becomes(&pool, "placed", ORDERS.unsigned_abs() as usize).await;
    let scheduled = noted(&pool, "scheduled").await;
    let reminder = &scheduled.iter().find(|(order, _)| order == "7").unwrap().1;
    let pay = Pay { order: 7, reminder: reminder.parse().unwrap() };
    sender.send(Outgoing::new(pay).key(7).to(queue)).await.unwrap();
    noted_becomes(&pool, "paid", 1).await;
    noted_becomes(&pool, "waited", 1).await;
    bus.stop().await;
    assert_eq!(DB::scheduled(&pool).await, ORDERS - 1, "the reminders, and nothing else");
    assert!(noted(&pool, "reminded").await.is_empty(), "an hour has not passed");

    let bus = desk.start().await;
    DB::pass_an_hour(&pool).await;
    noted_becomes(&pool, "reminded", ORDERS.unsigned_abs() as usize - 1).await;
    bus.stop().await;
    relay.stop().await;
    assert_eq!(DB::scheduled(&pool).await, 0);

    let mut placed = noted(&pool, "placed").await;
    placed.retain(|(order, _)| order != "7");
    assert_eq!(
        noted(&pool, "reminded").await,
        placed,
        "each was caused by the message that placed its order"
    );
    assert_eq!(noted(&pool, "waited").await, noted(&pool, "deferred").await, "the copy names its original");
    database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let database = TestDatabase::postgres().await;
    let queue = SqlQueue::new(database.pool.clone());
    Box::pin(story(database, queue)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() {
    let database = TestDatabase::mariadb().await;
    let queue = SqlQueue::new(database.pool.clone());
    Box::pin(story(database, queue)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let database = TestDatabase::sqlite().await;
    let queue = SqlQueue::new(database.pool.clone());
    Box::pin(story(database, queue)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_rabbitmq_without_a_plug_in() {
    let broker = RabbitMq::connect(&servers::amqp()).await.unwrap();
    Box::pin(story(TestDatabase::postgres().await, broker)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_kafka() {
    let broker = Kafka::connect(servers::kafka()).await.unwrap();
    Box::pin(story(TestDatabase::postgres().await, broker)).await;
}

/// More than the closing text takes: the message is bound, and arrives whole.
#[tokio::test]
async fn a_large_message_can_be_deferred_in_a_handler() {
    async fn check<DB: Subject>(database: TestDatabase<DB>)
    where
        AnyPool: From<Pool<DB>>,
    {
        let pool = database.pool.clone();
        schema::apply(&pool.clone().into()).await.unwrap();
        let desk = Desk { pool: pool.clone(), transport: Memory::new(), name: "desk".to_owned() };
        let sent = desk.handle_large(300_000).await;
        assert_eq!(DB::payload(&pool).await, sent);
        database.drop_now().await;
    }
    check(TestDatabase::postgres().await).await;
    check(TestDatabase::mariadb().await).await;
    check(TestDatabase::sqlite().await).await;
}

fn refused(bus: Result<Bus, BuildError>) -> String {
    bus.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn a_schedule_that_could_not_keep_its_promise_is_refused() {
    let database = TestDatabase::sqlite().await;
    let bus = || {
        Bus::builder("desk")
            .transport(Memory::new())
            .handler(place::<sqlx::Sqlite>)
            .state(desk::Failed::default())
    };
    let unit = |yes| SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(yes);
    let said = refused(bus().unit_of_work(unit(true)).schedule(SqlSchedule::new()).build());
    assert!(said.contains("BRD030") && said.contains("call .outbox(SqlOutbox::new())"), "{said}");
    let said = refused(
        bus().unit_of_work(unit(false)).outbox(SqlOutbox::new()).schedule(SqlSchedule::new()).build(),
    );
    assert!(said.contains("BRD012") && said.contains("an outbox and a schedule"), "{said}");
    let said = refused(bus().schedule(SqlSchedule::new()).build());
    assert!(said.contains("BRD013") || said.contains("BRD014"), "{said}");
    let never = SqlSchedule::new().poll(Duration::ZERO);
    let said = refused(bus().unit_of_work(unit(true)).outbox(SqlOutbox::new()).schedule(never).build());
    assert!(said.contains("BRD019") && said.contains("schedule_poll_ms"), "{said}");
    bus().unit_of_work(unit(false)).schedule(MemorySchedule::new()).build().unwrap();
    let none = bus().unit_of_work(unit(true)).build().unwrap();
    let said = none.defer(Duration::ZERO, Place { order: 1 }).await.unwrap_err().to_string();
    assert!(
        said.contains("\"desk\" has no schedule") && said.contains(".schedule(SqlSchedule::new())"),
        "{said}"
    );
    database.drop_now().await;
}
