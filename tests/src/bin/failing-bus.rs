//! A bus in a process of its own whose handler does what its message says: fail, hang, or end the process.
//!
//! `failing-bus DATABASE-URL sql|rabbitmq QUEUE ATTEMPTS PAUSE-MS`, PostgreSQL only. It says what it does on its standard output
//! and stops on SIGTERM.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use barid::{
    Attempt, Bus, Context, Failed, Message, RabbitMq, RetryPolicy, SqlQueue, SqlUnitOfWork, store::AnyPool,
};
use barid_tests::{bus::run_until_terminated, servers};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "trouble.make")]
struct Make {
    how: String,
}

async fn make(cmd: Make, cx: Context, attempt: Attempt) -> barid::Result<()> {
    println!("attempt {} of {}", attempt.0, cmd.how);
    match cmd.how.as_str() {
        "fail" => return Err(barid::Error::new("asked to fail")),
        "hang" => std::future::pending().await,
        "abort" => std::process::abort(),
        _ => {}
    }
    let mut db = cx.unit_of_work::<Postgres>().await?;
    sqlx::query("INSERT INTO effects (what) VALUES ($1)").bind(cmd.how).execute(&mut *db).await?;
    Ok(())
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "trouble.twice")]
struct Twice;

async fn twice(_: Twice) -> barid::Result<()> {
    println!("first level");
    Err(barid::Error::new("asked to fail"))
}

async fn twice_failed(_: Failed<Twice>) -> barid::Result<()> {
    println!("second level");
    std::process::abort()
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, transport, queue, attempts, pause_ms] = arguments.as_slice() else {
        bail!("usage: failing-bus DATABASE-URL sql|rabbitmq QUEUE ATTEMPTS PAUSE-MS");
    };
    let AnyPool::Postgres(pool) = AnyPool::connect(url, 4).await? else {
        bail!("the database is not PostgreSQL");
    };
    let pause = Duration::from_millis(pause_ms.parse().context("PAUSE-MS")?);
    let bus = Bus::builder(queue)
        .dead_letters(format!("{queue}-dead"))
        .unit_of_work(SqlUnitOfWork::new(pool.clone()))
        .retry(RetryPolicy {
            attempts_max: attempts.parse().context("ATTEMPTS")?,
            immediate_max: 1,
            pause,
            pause_max: pause,
        })
        .parallelism(1)
        .handler(make)
        .handler(twice)
        .handler(twice_failed);
    let bus = match transport.as_str() {
        "sql" => bus.transport(SqlQueue::new(AnyPool::Postgres(pool)).lease(Duration::from_secs(1))),
        "rabbitmq" => bus.transport(RabbitMq::connect(&servers::amqp()).await?),
        other => bail!("no transport is called {other:?}"),
    };
    run_until_terminated(bus).await
}
