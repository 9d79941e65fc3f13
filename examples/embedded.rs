//! The relay inside your own program: no second process, the same promises.
//!
//! The first run is dropped in the middle of its work, which is what a crash does. The second one goes on: nothing is lost, every
//! key stays in order, and what was in flight may arrive twice, with the same id.
//!
//! ```text
//! cargo run --example embedded
//! ```

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use barid::{
    Destination, Outbox, Outgoing, SqlQueue,
    store::{AnyPool, schema},
    transport::{Inbox, Transport},
};
use barid_examples::arguments::log_to_stderr;
use barid_relay::{Relay, lane::Order, relay::Settings, sink::Sink, source};
use tokio_util::sync::CancellationToken;

const ORDERS: i64 = 2_000;
const CUSTOMERS: i64 = 20;

/// A relay is made anew for each run; where it is, is in the database.
fn relay(database: &AnyPool) -> anyhow::Result<Relay> {
    Ok(Relay::builder(source::open::source("orders", database))
        .sink(Sink::new("queues", Arc::new(SqlQueue::new(database.clone()))))
        .route("queue:*", "queues", Order::Strict)
        .settings(Settings { delete_rows_max: 100, ..Settings::default() })
        .build()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let folder = tempfile::Builder::new().prefix("barid-example-").tempdir()?;
    let database =
        AnyPool::connect(&format!("sqlite://{}", folder.path().join("orders.db").display()), 8).await?;
    schema::apply(&database).await?;
    let AnyPool::Sqlite(pool) = database.clone() else { anyhow::bail!("this is SQLite") };
    SqlQueue::new(database.clone()).declare(&Inbox::new("shipping")).await?;

    // The service: business rows and messages in one transaction.
    let outbox = Outbox::new("orders");
    let mut connection = pool.acquire().await?;
    for order in 0..ORDERS {
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let message = Outgoing::raw("orders.placed", Some(order.to_string().into()))
            .to(Destination::queue("shipping")?)
            .key(order % CUSTOMERS);
        outbox
            .enqueue::<sqlx::Sqlite>(&mut transaction, message)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        transaction.commit().await?;
    }
    drop(connection);

    // A crash: the future is dropped when a part is done.
    let first = relay(&database)?;
    let mut stats = first.stats();
    tokio::select! {
        ended = first.run_until(std::future::pending()) => drop(ended?),
        part = stats.wait_for(|stats| stats.confirmed > 300) => drop(part?),
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await?;
    println!("the first relay was dropped with {left} rows left");
    ensure!(left > 0, "it was too quick to be interrupted");

    // The second one runs beside the rest of the program until it is told to stop.
    let (second, stop) = (relay(&database)?, CancellationToken::new());
    let doorbell = second.doorbell(); // for SqlOutbox::doorbell or Outbox::doorbell
    let running = tokio::spawn(second.run_until(stop.clone().cancelled_owned()));
    doorbell.ring();
    let empty = async {
        while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM outbox").fetch_one(&pool).await? > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), empty).await.context("the outbox is not empty")??;
    stop.cancel();
    let stats = running.await??;
    println!("the second relay published {} and stopped", stats.confirmed);

    let sent = "SELECT CAST(body AS TEXT) FROM queue_message ORDER BY seq";
    let sent: Vec<String> = sqlx::query_scalar(sent).fetch_all(&pool).await?;
    let mut newest = HashMap::new();
    for order in &sent {
        let order: i64 = order.parse()?;
        let newest = newest.entry(order % CUSTOMERS).or_insert(order % CUSTOMERS - CUSTOMERS);
        // A repeat is known by its id; a first copy comes after those before it.
        ensure!(order <= *newest || order == *newest + CUSTOMERS, "{order} after {newest}");
        *newest = order.max(*newest);
    }
    let last = newest.values().filter(|newest| **newest >= ORDERS - CUSTOMERS).count();
    ensure!(i64::try_from(last)? == CUSTOMERS, "a customer's last order is missing");
    println!("{ORDERS} orders arrived, each customer's in order, {} twice", sent.len() as i64 - ORDERS);
    Ok(())
}
