//! A bus over two databases in a process of its own that can be killed: its unit of work is `DistributedUnits`.
//!
//! `distributed-bus QUEUE HOME-URL BRANCH-URL`; the queue is in the home database. For each command it inserts one row into the table
//! `effect` of both databases, and one into the outbox. With `BARID_CRASH_AT` it dies at that point of the first transaction.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use barid::{
    Bus, BusBuilder, Context, Destination, Outgoing, RetryPolicy, SqlIdempotency, SqlOutbox, SqlQueue,
    distributed::{
        Branch, Coordinator, DistributedUnits, Resource, ResourceId, Settings, SqlDecisionLog, SqlResource,
    },
    store::{AnyPool, distributed::branch::TwoPhase},
};
use barid_tests::{bus::run_until_terminated, spread::Spread, transfer::impatient};
use sqlx::{MySql, Pool, Postgres};

const IN_FLIGHT: u32 = 8;

macro_rules! handler {
    ($name:ident, $branch:ty, $insert:literal) => {
        async fn $name(cmd: Spread, cx: Context, branch: Branch<$branch>) -> barid::Result<()> {
            let mut home = cx.unit_of_work::<Postgres>().await?;
            sqlx::query("INSERT INTO effect (n) VALUES ($1)").bind(cmd.n).execute(&mut *home).await?;
            // Both at the same time, as a handler would that reads here and writes there.
            let mut db = branch.connection().await?;
            sqlx::query($insert).bind(cmd.n).execute(&mut *db).await?;
            cx.publish(Outgoing::new(cmd).to(Destination::topic("spread")?))
        }
    };
}

handler!(on_postgres, Postgres, "INSERT INTO effect (n) VALUES ($1)");
handler!(on_mariadb, MySql, "INSERT INTO effect (n) VALUES (?)");

/// The bus without its handler.
async fn bus<B: TwoPhase>(queue: &str, home: Pool<Postgres>, branch: Pool<B>) -> Result<BusBuilder> {
    let log = Arc::new(SqlDecisionLog::new(home.clone()));
    let branch = SqlResource::new(ResourceId::new("branch")?, branch);
    // So patient that a slow machine finishes what it began, and a dead process is not waited for long.
    let settings = Settings { deadline: Duration::from_secs(3), ..impatient() };
    let coordinator = Coordinator::connect(log, [branch.clone() as Arc<dyn Resource>], settings).await?;
    Ok(Bus::builder(queue)
        .transport(SqlQueue::new(home.clone()).lease(Duration::from_secs(2)))
        .unit_of_work(DistributedUnits::new(&coordinator, home).branch(&branch))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        // A death of the process is no fault of the message.
        .retry(RetryPolicy { attempts_max: 1_000_000, ..RetryPolicy::default() })
        .parallelism(IN_FLIGHT as usize))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [queue, home, branch] = arguments.as_slice() else {
        bail!("usage: distributed-bus QUEUE HOME-URL BRANCH-URL");
    };
    let AnyPool::Postgres(home) = AnyPool::connect(home, 4 * IN_FLIGHT).await? else {
        bail!("the home of this bus is on PostgreSQL");
    };
    let bus = match AnyPool::connect(branch, 2 * IN_FLIGHT).await? {
        AnyPool::Postgres(branch) => bus(queue, home, branch).await?.handler(on_postgres),
        AnyPool::MySql(branch) => bus(queue, home, branch).await?.handler(on_mariadb),
        _ => bail!("SQLite cannot be prepared"),
    };
    run_until_terminated(bus).await
}
