//! Several messages in one unit of work.

use barid::{
    Batch, BatchPolicy, Bus, BusBuilder, Context, Destination, Error, Memory, Outgoing, Result, Sender,
    SqlUnitOfWork, State, Transport,
    transport::{Delivery, Inbox},
};
use barid_tests::TestDatabase;
use sqlx::{Executor, Sqlite, SqlitePool};
use uuid::Uuid;

use crate::stage::{BUS, Journal, Place, Placed, Running, bus, carrying, database, delivery};

struct Run {
    database: TestDatabase<Sqlite>,
    journal: Journal,
}

impl Run {
    async fn new() -> Self {
        let database = database().await;
        database.pool.execute("CREATE TABLE orders (id INTEGER)").await.unwrap();
        Self { database, journal: Journal::default() }
    }

    /// Batches of up to ten.
    async fn bus(&self, network: &Memory) -> BusBuilder {
        let unit = SqlUnitOfWork::new(self.database.pool.clone()).commit_with_transaction(true);
        let bus = bus(network).await.unit_of_work(unit).batch(BatchPolicy::of(10));
        bus.state(self.journal.clone()).state(self.database.pool.clone())
    }

    async fn rows(&self) -> Vec<i64> {
        let rows = sqlx::query_scalar("SELECT id FROM orders ORDER BY id");
        rows.fetch_all(&self.database.pool).await.unwrap()
    }
}

async fn insert(cx: &Context, id: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    sqlx::query("INSERT INTO orders VALUES ($1)").bind(id).execute(&mut *db).await?;
    Ok(())
}

/// Inserts its row, and writes down how many rows it and others can see then.
async fn place(cmd: Place, cx: Context, journal: State<Journal>, pool: State<SqlitePool>) -> Result<()> {
    insert(&cx, cmd.id).await?;
    const ROWS: &str = "SELECT count(*) FROM orders";
    let inside: i64 = {
        let mut db = cx.unit_of_work::<Sqlite>().await?;
        sqlx::query_scalar(ROWS).fetch_one(&mut *db).await?
    };
    let outside: i64 = sqlx::query_scalar(ROWS).fetch_one(&*pool.0).await?;
    journal.0.write(format!("place {}: {inside} inside, {outside} outside", cmd.id));
    if cmd.id == 13 { Err(Error::new("no")) } else { Ok(()) }
}

async fn placed(event: Placed, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("placed {}", event.id));
    Ok(())
}

async fn handled(bus: &Bus, deliveries: Vec<Delivery>) -> Vec<bool> {
    bus.handle_batch(deliveries).await.iter().map(Result::is_ok).collect()
}

#[tokio::test]
async fn every_member_has_its_handlers_and_they_share_one_transaction() {
    let run = Run::new().await;
    let bus = run.bus(&Memory::new()).await.handler(place).handler(placed).build().unwrap();
    let event = carrying(Uuid::now_v7(), &Placed { id: 2 });
    let members = vec![delivery(Uuid::now_v7(), 1), event, delivery(Uuid::now_v7(), 3)];
    assert_eq!(handled(&bus, members).await, [true; 3]);
    let expected = ["place 1: 1 inside, 0 outside", "placed 2", "place 3: 2 inside, 0 outside"];
    assert_eq!(run.journal.read(), expected);
    assert_eq!(run.rows().await, [1, 3]);
    run.database.drop_now().await;
}

/// In the model one member that fails brings all of them back. Ours handles it alone.
#[tokio::test]
async fn a_member_that_fails_goes_back_by_itself() {
    let run = Run::new().await;
    let bus = run.bus(&Memory::new()).await.handler(place).build().unwrap();
    let members = [1, 13, 3].map(|id| delivery(Uuid::now_v7(), id));
    assert_eq!(handled(&bus, members.into()).await, [true, false, true]);
    assert_eq!(run.rows().await, [1, 3]);
    run.database.drop_now().await;
}

async fn place_all(orders: Batch<Place>, cx: Context, journal: State<Journal>) -> Result<()> {
    for order in &orders {
        insert(&cx, order.id).await?;
        order.context().publish(Outgoing::new(Placed { id: order.id }))?;
    }
    journal.0.write(format!("{:?}", orders.iter().map(|order| order.id).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_takes_what_waits_in_the_queue_in_one_call() {
    let (run, network) = (Run::new().await, Memory::new());
    let builder = run.bus(&network).await.batch_handler(place_all).handler(placed);
    let builder = builder.auto_subscribe().parallelism(1);
    let sender = Sender::connect(&network, "test").await.unwrap();
    network.declare(&Inbox::new(BUS)).await.unwrap();
    for id in 0..5 {
        let to = Destination::queue(BUS).unwrap();
        sender.send(Outgoing::new(Place { id }).to(to)).await.unwrap();
    }
    let running = Running::start(builder).await;
    let written = run.journal.until(6).await;
    assert_eq!(written, ["[0, 1, 2, 3, 4]", "placed 0", "placed 1", "placed 2", "placed 3", "placed 4"]);
    assert_eq!(run.rows().await, [0, 1, 2, 3, 4]);
    running.stop().await;
    run.database.drop_now().await;
}
