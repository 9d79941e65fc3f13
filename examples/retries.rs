//! Retries and dead letters: what fails for a moment, what fails for good, and who is told in between.
//!
//! ```text
//! cargo run --example retries
//! ```

use std::time::Duration;

use barid::{Attempt, Context, Error, Failed, Message, Result, RetryPolicy};
use barid_examples::{Workshop, arguments::log_to_stderr};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "payments.pay")]
struct Pay {
    order_id: i64,
    card: Card,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Card {
    /// The bank answers the third time.
    Slow,
    /// The bank never answers.
    Dead,
    /// There is no such card: asking again cannot help.
    Forged,
}

#[derive(Debug, thiserror::Error)]
#[error("the card is forged")]
struct Forged;

async fn pay(cmd: Pay, cx: Context, attempt: Attempt) -> Result<()> {
    match cmd.card {
        Card::Forged => return Err(Forged.into()),
        Card::Dead => return Err(Error::new("the bank does not answer")),
        Card::Slow if attempt.0 < 3 => return Err(Error::new("the bank is slow")),
        Card::Slow => {}
    }
    write(&cx, "paid", cmd.order_id).await
}

/// Called when the attempts are used up, before the message would become a dead letter, in a unit of work of its own.
async fn not_paid(failed: Failed<Pay>, cx: Context) -> Result<()> {
    if failed.message.card == Card::Forged {
        return Err(Error::permanent("somebody has to look at this"));
    }
    write(&cx, "cancelled", failed.message.order_id).await
}

async fn write(cx: &Context, what: &str, order_id: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    let row = sqlx::query("INSERT INTO orders (id, state) VALUES ($1, $2)").bind(order_id).bind(what);
    row.execute(&mut *db).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut workshop = Workshop::open("CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT)").await?;
    let payments = workshop
        .bus("payments")
        // Two attempts at once, then pauses that double; the fifth one is the last.
        .retry(RetryPolicy { attempts_max: 5, pause: Duration::from_millis(20), ..RetryPolicy::default() })
        .fail_fast::<Forged>()
        .handler(pay)
        .handler(not_paid)
        .build()?;
    workshop.start(&payments).await?;

    for (order_id, card) in [(1, Card::Slow), (2, Card::Dead), (3, Card::Forged)] {
        workshop.send("payments", Pay { order_id, card }).await?;
    }
    workshop.becomes("SELECT count(*) FROM orders WHERE id = 1 AND state = 'paid'", 1).await?;
    workshop.becomes("SELECT count(*) FROM orders WHERE id = 2 AND state = 'cancelled'", 1).await?;
    workshop.becomes("SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'", 1).await?;

    let letter: String = sqlx::query_scalar("SELECT headers FROM queue_message WHERE queue = 'dead-letters'")
        .fetch_one(&workshop.pool)
        .await?;
    let headers: barid::Headers = serde_json::from_str(&letter)?;
    let letter = barid::DeadLetter::read(&headers).map_err(|error| anyhow::anyhow!("{error}"))?;
    println!(
        "order 1 was paid at the third attempt, order 2 was cancelled, order 3 is a dead letter after {} attempt: {}",
        letter.attempts, letter.cause
    );
    workshop.close().await
}
