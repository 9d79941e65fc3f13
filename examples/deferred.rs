//! Deferred and scheduled messages: a reminder that is sent later, one that is cancelled in time, and one by the clock.
//!
//! ```text
//! cargo run --example deferred
//! ```

use std::time::Duration;

use barid::{Context, Message, Result, SqlSchedule};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.remind")]
struct Remind {
    order_id: i64,
}

async fn place_order(cmd: PlaceOrder, cx: Context) -> Result<()> {
    // Commits with the handler's own rows, or not at all; survives a restart, and needs no plug-in of the broker.
    let reminder = cx.defer(Duration::from_millis(200), Remind { order_id: cmd.order_id })?;
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    // The id is what cancels it.
    let row =
        sqlx::query("INSERT INTO orders (id, reminder) VALUES ($1, $2)").bind(cmd.order_id).bind(reminder);
    row.execute(&mut *db).await?;
    Ok(())
}

async fn remind(cmd: Remind, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    sqlx::query("INSERT INTO reminders (order_id) VALUES ($1)").bind(cmd.order_id).execute(&mut *db).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop = Workshop::open(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, reminder BLOB); CREATE TABLE reminders (order_id INTEGER)",
    )
    .await?;
    let orders =
        workshop.bus("orders").schedule(SqlSchedule::new()).handler(place_order).handler(remind).build()?;
    workshop.start(&orders).await?;

    // In a handler.
    workshop.send("orders", PlaceOrder { order_id: 1 }).await?;
    // Outside one: by the clock, and cancelled in time.
    let at = barid::clock::now() + Duration::from_millis(200);
    orders.schedule(at, Remind { order_id: 2 }).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let far = orders.defer(Duration::from_secs(3600), Remind { order_id: 3 }).await;
    let far = far.map_err(|error| anyhow::anyhow!("{error}"))?;
    let cancelled = orders.cancel(far).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    anyhow::ensure!(cancelled, "the reminder for order 3 was there to be cancelled");

    workshop.becomes("SELECT count(*) FROM reminders WHERE order_id IN (1, 2)", 2).await?;
    workshop.becomes("SELECT count(*) FROM schedule", 0).await?;
    println!("orders 1 and 2 were reminded of, the reminder for order 3 was cancelled");
    workshop.close().await
}
