//! A saga with a timeout: an order is shipped when it was paid, and cancelled when it was not paid in time.
//!
//! ```text
//! cargo run --example saga
//! ```

use std::time::Duration;

use barid::{Context, Message, Result, Saga, SqlSchedule, saga::by};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "payments.received")]
struct PaymentReceived {
    order_id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "shipping.payment_overdue")]
struct PaymentOverdue {
    order_id: i64,
}

/// What the saga remembers of an order between its messages.
#[derive(Default, Serialize, Deserialize)]
struct Shipping {
    placed: bool,
    paid: bool,
}

async fn on_placed(event: OrderPlaced, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
    shipping.placed = true;
    if !shipping.paid {
        // Completing the saga cancels it.
        shipping.timeout(Duration::from_millis(300), PaymentOverdue { order_id: event.order_id })?;
    }
    ship_when_ready(event.order_id, shipping, cx).await
}

/// Messages overtake one another: the payment may come first and starts the saga then.
async fn on_paid(event: PaymentReceived, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
    shipping.paid = true;
    ship_when_ready(event.order_id, shipping, cx).await
}

async fn on_overdue(event: PaymentOverdue, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
    shipping.complete();
    write(&cx, event.order_id, "cancelled").await
}

async fn ship_when_ready(order_id: i64, mut shipping: Saga<Shipping>, cx: Context) -> Result<()> {
    if shipping.placed && shipping.paid {
        shipping.complete();
        write(&cx, order_id, "shipped").await?;
    }
    Ok(())
}

async fn write(cx: &Context, order_id: i64, state: &str) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    // The primary key would refuse an order that is shipped and cancelled.
    let row = sqlx::query("INSERT INTO orders (id, state) VALUES ($1, $2)").bind(order_id).bind(state);
    row.execute(&mut *db).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop = Workshop::open("CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT)").await?;
    let shipping = workshop
        .bus("shipping")
        .schedule(SqlSchedule::new())
        .saga(
            Saga::<Shipping>::define("shipping")
                .starts_with(by("order", |event: &OrderPlaced| event.order_id), on_placed)
                .starts_with(by("order", |event: &PaymentReceived| event.order_id), on_paid)
                .on_timeout(on_overdue),
        )
        .build()?;
    workshop.start(&shipping).await?;

    // Order 1 is paid after it was placed, order 2 before, order 3 never.
    workshop.send("shipping", OrderPlaced { order_id: 1 }).await?;
    workshop.send("shipping", PaymentReceived { order_id: 1 }).await?;
    workshop.send("shipping", PaymentReceived { order_id: 2 }).await?;
    workshop.send("shipping", OrderPlaced { order_id: 2 }).await?;
    workshop.send("shipping", OrderPlaced { order_id: 3 }).await?;
    workshop.becomes("SELECT count(*) FROM orders WHERE state = 'shipped' AND id IN (1, 2)", 2).await?;
    workshop.becomes("SELECT count(*) FROM orders WHERE state = 'cancelled' AND id = 3", 1).await?;
    // What was shipped will not be cancelled: its timeout went with its saga.
    workshop.becomes("SELECT count(*) FROM schedule", 0).await?;

    println!("orders 1 and 2 were shipped, order 3 was cancelled when its payment was overdue");
    workshop.close().await
}
