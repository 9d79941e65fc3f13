//! Request and reply: a typed answer that is waited for, and a result that an HTTP front end asks for later.
//!
//! ```text
//! cargo run --example request
//! ```

use std::time::Duration;

use anyhow::Context as _;
use barid::{Context, Destination, Message, Outgoing, Result, request::Request};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "prices.get")]
struct GetPrice {
    sku: String,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "prices.price")]
struct Price {
    cents: i64,
}

/// The two cannot be mixed up.
impl Request for GetPrice {
    type Reply = Price;
}

async fn price(query: GetPrice, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    let cents = sqlx::query_scalar("SELECT cents FROM prices WHERE sku = $1").bind(&query.sku);
    let cents: i64 = cents.fetch_one(&mut *db).await?;
    // Stored with the record that the request was handled: a repeated request gets the same answer, and no second effect.
    cx.reply(Price { cents })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop = Workshop::open(
        "CREATE TABLE prices (sku TEXT, cents INTEGER); INSERT INTO prices VALUES ('lamp', 1999)",
    )
    .await?;
    let prices = workshop.bus("prices").handler(price).build()?;
    let shop = workshop.bus("shop").send_only().requests().route::<GetPrice>(Destination::queue("prices")?);
    let shop = shop.build()?;
    for bus in [&prices, &shop] {
        workshop.start(bus).await?;
    }

    shop.requests_ready().await?;
    let price = shop.request(GetPrice { sku: "lamp".into() }, Duration::from_secs(10)).await?;
    anyhow::ensure!(price.cents == 1999, "{price:?}");

    // Where nobody can wait: 202 Accepted with the id, and a look at the result later.
    let query = Outgoing::new(GetPrice { sku: "lamp".into() });
    let id = shop.submit(query).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let result = shop.wait_result(id, Duration::from_secs(10)).await;
    let result =
        result.map_err(|error| anyhow::anyhow!("{error}"))?.context("the result is kept for a week")?;
    let later: Price = shop.decode_result(&result).map_err(|error| anyhow::anyhow!("{error}"))?;
    println!("the lamp costs {} cents, and {} when asked for later", price.cents, later.cents);
    workshop.close().await
}
