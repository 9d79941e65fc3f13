//! One decision for two databases: an order in one, its invoice in the other, and never only one of them.
//!
//! ```text
//! cargo run -p barid-examples --features postgres --example distributed -- --database postgres://user:password@host/database
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use barid::{
    Bus, Context, Destination, Message, Outgoing, Result, Sender, SqlIdempotency, SqlOutbox, SqlQueue,
    distributed::{
        Branch, Coordinator, DistributedUnits, Resource, ResourceId, Settings, SqlDecisionLog, SqlResource,
    },
    store::{AnyPool, schema},
};
use barid_examples::{Place, arguments::log_to_stderr};
use clap::Parser;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Row};

const ORDERS: i64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Orders and invoices in two databases.
#[derive(Debug, Parser)]
struct Options {
    /// A PostgreSQL in which the run makes two databases of its own; it needs max_prepared_transactions above 0.
    #[arg(long, value_name = "URL", env = "BARID_TEST_POSTGRES_URL", hide_env_values = true)]
    database: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    order_id: i64,
    amount: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

/// The order, the invoice in the other database, the event and the idempotency record: all of them or none.
async fn place(cmd: PlaceOrder, cx: Context, billing: Branch<Postgres>) -> Result<()> {
    let mut orders = cx.unit_of_work::<Postgres>().await?;
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.order_id).execute(&mut *orders).await?;
    let mut invoices = billing.connection().await?;
    // The other database accepts no amount below zero: then there is no order either.
    let insert = sqlx::query("INSERT INTO invoices (id, amount) VALUES ($1, $2)");
    insert.bind(cmd.order_id).bind(cmd.amount).execute(&mut *invoices).await?;
    cx.publish(OrderPlaced { order_id: cmd.order_id })
}

async fn open(place: &Place, tables: &'static str) -> anyhow::Result<PgPool> {
    let any = AnyPool::connect(&place.url, 20).await?;
    schema::apply(&any).await?;
    let AnyPool::Postgres(pool) = any else { bail!("{} is not PostgreSQL", place.url) };
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}

/// Waits until a query finds this number.
async fn becomes(pool: &PgPool, sql: &'static str, expected: i64) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        loop {
            look.tick().await;
            let found: i64 = sqlx::query(sql).fetch_one(pool).await?.try_get(0)?;
            if found == expected {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.map_err(|_| anyhow::anyhow!("{sql} is not {expected}"))?
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let Options { database } = Options::parse();
    let (home, other) = (Place::new(Some(&database)).await?, Place::new(Some(&database)).await?);
    let orders = open(&home, "CREATE TABLE orders (id BIGINT PRIMARY KEY)").await?;
    let billing =
        open(&other, "CREATE TABLE invoices (id BIGINT PRIMARY KEY, amount BIGINT CHECK (amount >= 0))")
            .await?;

    // The decisions are kept where the orders are: they commit together.
    let log = Arc::new(SqlDecisionLog::new(orders.clone()));
    let resource = SqlResource::new(ResourceId::new("billing")?, billing.clone());
    let resources = [Arc::clone(&resource) as Arc<dyn Resource>];
    let coordinator = Coordinator::connect(log, resources, Settings::default()).await?;
    let queue = SqlQueue::new(orders.clone());
    let bus = Bus::builder("orders")
        .transport(queue.clone())
        .unit_of_work(DistributedUnits::new(&coordinator, orders.clone()).branch(&resource))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .parallelism(4)
        .fail_fast::<sqlx::Error>()
        .handler(place)
        .build()?;
    bus.declare().await?;
    let sender = Sender::connect(&queue, "shop").await?;
    for order_id in 0..ORDERS {
        let amount = if order_id % 5 == 0 { -1 } else { 100 };
        let command = Outgoing::new(PlaceOrder { order_id, amount }).to(Destination::queue("orders")?);
        sender.send(command).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    }

    let good = ORDERS - ORDERS / 5;
    let handled = async {
        becomes(&orders, "SELECT count(*) FROM outbox", good).await?;
        becomes(&orders, "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'", ORDERS - good)
            .await
    };
    let mut checked = Ok(());
    bus.run_until(async { checked = handled.await }).await?;
    checked?;
    becomes(&orders, "SELECT count(*) FROM orders", good).await?;
    becomes(&billing, "SELECT count(*) FROM invoices", good).await?;
    becomes(&orders, "SELECT count(*) FROM orders WHERE id % 5 = 0", 0).await?;
    println!(
        "{good} orders with an invoice in the other database; {} refused there, and so in both",
        ORDERS - good
    );
    orders.close().await;
    billing.close().await;
    home.remove().await?;
    other.remove().await
}
