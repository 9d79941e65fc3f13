//! A bus in a process of its own that dies at a place of its unit of work: `uow_before_commit`, when nothing but the COMMIT is
//! missing, or `uow_after_commit_before_ack`, when nobody has heard of the COMMIT.
//!
//! `aborting-bus DATABASE-URL QUEUE DESTINATION POINT TIMES`; its queue is in the same database. For each command it inserts one
//! row into `load_row` and one into the outbox. With 0 times it lives until SIGTERM.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use barid::{
    Bus, Context, Destination, Message, Outgoing, RetryPolicy, SqlIdempotency, SqlOutbox, SqlQueue,
    SqlUnitOfWork, store::AnyPool,
};
use barid_tests::{bus::run_until_terminated, outbox::Posted};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};
use uuid::Uuid;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "load.post")]
struct Post {
    key: i64,
    n: i64,
}

/// Where to die, and at which time of coming there.
struct Plan {
    destination: Destination,
    point: String,
    times: u64,
    reached: AtomicU64,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

impl Plan {
    fn reached(&self, point: &str, id: Uuid) {
        if point == self.point && self.reached.fetch_add(1, Ordering::SeqCst) + 1 == self.times {
            println!("failpoint {point} reached {} times: aborting with the row {id}", self.times);
            std::process::abort();
        }
    }
}

/// What every handler does beside its INSERT.
fn publish(cmd: &Post, cx: &Context, id: Uuid) -> barid::Result<()> {
    let plan = PLAN.get().ok_or_else(|| barid::Error::new("there is no plan"))?;
    let posted = Posted { key: cmd.key, n: cmd.n };
    let body = serde_json::to_vec(&posted).map_err(|error| barid::Error::new(error.to_string()))?;
    let event = Outgoing::raw("load.posted", bytes::Bytes::from(body));
    cx.publish(event.id(id).key(cmd.key).to(plan.destination.clone()))?;
    let completed = |error: barid::transaction::Completed| barid::Error::new(error.to_string());
    cx.transaction()
        .on_commit(move || async move {
            plan.reached("uow_before_commit", id);
            Ok(())
        })
        .map_err(completed)?;
    cx.transaction()
        .after_commit(move || async move {
            plan.reached("uow_after_commit_before_ack", id);
            Ok(())
        })
        .map_err(completed)
}

macro_rules! handler {
    ($name:ident, $database:ty, $insert:literal) => {
        async fn $name(cmd: Post, cx: Context) -> barid::Result<()> {
            let id = Uuid::now_v7();
            let mut db = cx.unit_of_work::<$database>().await?;
            sqlx::query($insert).bind(id).bind(cmd.key).bind(cmd.n).execute(&mut *db).await?;
            drop(db);
            publish(&cmd, &cx, id)
        }
    };
}

handler!(on_postgres, Postgres, "INSERT INTO load_row (id, number, n) VALUES ($1, $2, $3)");
handler!(on_mariadb, MySql, "INSERT INTO load_row (id, number, n) VALUES (?, ?, ?)");
handler!(on_sqlite, Sqlite, "INSERT INTO load_row (id, number, n) VALUES (?, ?, ?)");

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, destination, point, times] = arguments.as_slice() else {
        bail!("usage: aborting-bus DATABASE-URL QUEUE DESTINATION POINT TIMES");
    };
    let plan = Plan {
        destination: destination.parse().context("DESTINATION")?,
        point: point.clone(),
        times: times.parse().context("TIMES")?,
        reached: AtomicU64::new(0),
    };
    PLAN.get_or_init(|| plan);
    let pool = AnyPool::connect(url, 6).await?;
    let bus = Bus::builder(queue)
        .transport(SqlQueue::new(pool.clone()).lease(Duration::from_secs(1)))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        // A death of the process is no fault of the message.
        .retry(RetryPolicy { attempts_max: 1_000_000, ..RetryPolicy::default() })
        .parallelism(2);
    let bus = match pool {
        AnyPool::Postgres(pool) => {
            bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)).handler(on_postgres)
        }
        AnyPool::MySql(pool) => {
            bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)).handler(on_mariadb)
        }
        AnyPool::Sqlite(pool) => {
            bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)).handler(on_sqlite)
        }
        _ => bail!("no handler for this kind of database"),
    };
    run_until_terminated(bus).await
}
