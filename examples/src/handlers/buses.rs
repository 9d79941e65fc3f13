//! Orders are written and announced; what was announced is shipped.

use barid::{
    Attempt, Bus, Context, Error, Message, Outbox, Outgoing, Result, SqlIdempotency, SqlOutbox,
    SqlUnitOfWork, State, Transport,
};
use sqlx::{Connection, Pool};
use uuid::Uuid;

use super::Db;
use crate::{
    faults,
    journal::Journal,
    messages::{Names, OrderPlaced, OrdersClosed, PlaceOrder},
};

/// Writes the order and announces it. Order, announcement and the note that this command was handled commit together.
async fn place_order(
    command: PlaceOrder,
    Attempt(attempt): Attempt,
    State(journal): State<Journal>,
    cx: Context,
) -> Result<()> {
    let attempt_id = journal.attempt(cx.message_id()).await?;
    let event_id = Uuid::now_v7();
    let mut db = cx.unit_of_work::<Db>().await?;

    // Locks the customer until the commit: orders of one customer commit in the order of their numbers.
    let number: i64 =
        sqlx::query_scalar("UPDATE customers SET orders = orders + 1 WHERE name = $1 RETURNING orders")
            .bind(&command.customer)
            .fetch_one(&mut *db)
            .await?;
    sqlx::query(
        "INSERT INTO orders (command_id, event_id, attempt_id, customer, number) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(cx.message_id())
    .bind(event_id)
    .bind(attempt_id)
    .bind(&command.customer)
    .bind(number)
    .execute(&mut *db)
    .await?;

    let copies = if faults::announced_twice(command.command) { 2 } else { 1 };
    for _ in 0..copies {
        let event = OrderPlaced { customer: command.customer.clone(), number };
        cx.publish(Outgoing::new(event).id(event_id).key(&command.customer))?;
    }
    if attempt == 1 && faults::first_attempt_fails(command.command) {
        return Err(Error::new("this handler fails on purpose, after it has written the order"));
    }
    Ok(())
}

/// Ships what was ordered.
async fn ship(event: OrderPlaced, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Db>().await?;
    sqlx::query("INSERT INTO shipments (event_id, customer, number) VALUES ($1, $2, $3)")
        .bind(cx.message_id())
        .bind(&event.customer)
        .bind(event.number)
        .execute(&mut *db)
        .await?;
    Ok(())
}

/// Notes that a customer's last event has arrived.
async fn close(event: OrdersClosed, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Db>().await?;
    sqlx::query("INSERT INTO closings (customer) VALUES ($1)")
        .bind(&event.customer)
        .execute(&mut *db)
        .await?;
    Ok(())
}

/// The bus that takes orders: outbox and idempotency, in one transaction with the order.
///
/// # Errors
/// Everything that does not fit together.
pub fn orders(
    pool: &Pool<Db>,
    journal: &Journal,
    transport: impl Transport,
    names: &Names,
) -> anyhow::Result<Bus> {
    let bus = Bus::builder("orders")
        .queue(&names.orders)
        .transport(transport)
        .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .route::<OrderPlaced>(names.events_topic()?)
        .state(journal.clone())
        .parallelism(8)
        .handler(place_order)
        .build()?;
    Ok(bus)
}

/// The bus that ships: idempotent, and sends nothing itself.
///
/// # Errors
/// Everything that does not fit together.
pub fn shipping(
    pool: &Pool<Db>,
    journal: &Journal,
    transport: impl Transport,
    names: &Names,
) -> anyhow::Result<Bus> {
    let bus = Bus::builder("shipping")
        .queue(&names.shipping)
        .subscribe(&names.events)
        // Writes down every delivery before the bus sees it.
        .transport(journal.watch(transport))
        .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
        .idempotency(SqlIdempotency::new())
        .parallelism(8)
        .handler(ship)
        .handler(close)
        .build()?;
    Ok(bus)
}

/// The last event of every customer, from outside a handler: into the outbox, in a transaction of our own.
///
/// # Errors
/// When the database fails; nothing was written then.
pub async fn close_orders(pool: &Pool<Db>, names: &Names) -> anyhow::Result<()> {
    let outbox = Outbox::new("shop").route(OrdersClosed::NAME, names.events_topic()?);
    let last = (0..faults::CUSTOMERS).map(|command| {
        let customer = faults::customer(command);
        Outgoing::new(OrdersClosed { customer: customer.clone() }).key(customer)
    });
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    outbox.enqueue_all::<Db>(&mut transaction, last.collect::<Vec<_>>()).await.map_err(anyhow::Error::msg)?;
    transaction.commit().await?;
    Ok(())
}
