//! Batches: many messages in one unit of work, for what arrives faster than a database can commit one by one.
//!
//! ```text
//! cargo run --example batches
//! ```

use barid::{BatchPolicy, Context, Error, Message, Result};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

const READINGS: i64 = 500;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "meters.reading")]
struct Reading {
    meter: i64,
    value: i64,
}

/// Takes what is ready, in one call. What comes out of it commits together; when it fails, each message is handled alone.
async fn store(readings: Vec<Reading>, cx: Context) -> Result<()> {
    if let Some(wrong) = readings.iter().find(|reading| reading.value < 0) {
        return Err(Error::permanent(format!("meter {} cannot read {}", wrong.meter, wrong.value)));
    }
    let calls = i64::try_from(readings.len())?;
    let mut insert = sqlx::QueryBuilder::<Sqlite>::new("INSERT INTO readings (meter, value, together) ");
    insert.push_values(&readings, |mut row, reading| {
        row.push_bind(reading.meter).push_bind(reading.value).push_bind(calls);
    });
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    insert.build().execute(&mut *db).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop =
        Workshop::open("CREATE TABLE readings (meter INTEGER, value INTEGER, together INTEGER)").await?;
    let meters = workshop.bus("meters").batch(BatchPolicy::of(50)).batch_handler(store).build()?;
    meters.declare().await?;
    for meter in 1..=READINGS {
        workshop.send("meters", Reading { meter, value: if meter == 7 { -1 } else { meter } }).await?;
    }
    workshop.start(&meters).await?;

    // All but the one that is wrong, which spoiled its batch and nothing else.
    workshop.becomes("SELECT count(*) FROM readings", READINGS - 1).await?;
    workshop.becomes("SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'", 1).await?;
    let largest = workshop.number("SELECT max(together) FROM readings").await?;
    anyhow::ensure!(largest > 1, "nothing was handled together");
    println!(
        "{} readings stored, up to {largest} with one commit; the wrong one is a dead letter",
        READINGS - 1
    );
    workshop.close().await
}
