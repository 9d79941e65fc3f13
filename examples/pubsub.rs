//! Publish and subscribe: one event, several subscribers, and an event that is another one as well.
//!
//! ```text
//! cargo run --example pubsub
//! ```

use barid::{Context, Message, Result};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    order_id: i64,
    express: bool,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

/// Whoever handles `OrderPlaced` gets this one too, also a service that has never heard of it.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed_express", extends(OrderPlaced))]
struct ExpressOrderPlaced {
    order_id: i64,
    hours: u32,
}

async fn place_order(cmd: PlaceOrder, cx: Context) -> Result<()> {
    // The publisher does not know who is interested.
    match cmd.express {
        true => cx.publish(ExpressOrderPlaced { order_id: cmd.order_id, hours: 24 }),
        false => cx.publish(OrderPlaced { order_id: cmd.order_id }),
    }
}

async fn write(cx: &Context, what: &str, order_id: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    let note = sqlx::query("INSERT INTO notes (what, order_id) VALUES ($1, $2)").bind(what).bind(order_id);
    note.execute(&mut *db).await?;
    Ok(())
}

async fn bill(event: OrderPlaced, cx: Context) -> Result<()> {
    write(&cx, "billed", event.order_id).await
}

async fn hurry(event: ExpressOrderPlaced, cx: Context) -> Result<()> {
    write(&cx, "hurried", event.order_id).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop = Workshop::open("CREATE TABLE notes (what TEXT, order_id INTEGER)").await?;

    // Subscribers first: an event that is published to a topic without subscribers goes to nobody.
    let billing = workshop.bus("billing").auto_subscribe().handler(bill).build()?;
    let courier = workshop.bus("courier").auto_subscribe().handler(hurry).build()?;
    let orders = workshop.bus("orders").handler(place_order).build()?;
    for bus in [&billing, &courier, &orders] {
        workshop.start(bus).await?;
    }

    for (order_id, express) in [(1, false), (2, true)] {
        workshop.send("orders", PlaceOrder { order_id, express }).await?;
    }
    workshop.becomes("SELECT count(*) FROM notes WHERE what = 'billed'", 2).await?;
    workshop.becomes("SELECT count(*) FROM notes WHERE what = 'hurried' AND order_id = 2", 1).await?;

    println!(
        "billed both orders, hurried with the express one: {} notes",
        workshop.number("SELECT count(*) FROM notes").await?
    );
    workshop.close().await
}
