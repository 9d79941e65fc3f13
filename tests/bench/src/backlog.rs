//! `backlog`: whether a large backlog slows the relay down or fills its memory.
//!
//! The rate of the first rows of a backlog of millions (`ours`) against the rate of a backlog that has no others behind them
//! (`bare`), in turn, by the same relay. Then the relay, as a process of its own, drains on from the large backlog while its resident
//! memory is sampled.

mod resident;

use std::time::Instant;

use anyhow::{Context, ensure};
use barid::store::AnyPool;
use barid_relay::source;
use barid_tests::TestDatabase;
use clap::Args;
use sqlx::{PgPool, Postgres};

use crate::{
    outbox::{self, Backlog},
    report::{Report, Round, rate},
    running::Running,
    target::Target,
};

/// With ten million rows one each would take an hour to load; all in one would give every row the same xid.
const ROWS_PER_TRANSACTION: usize = 100;
/// Rows beyond the first ones that a relay may have in its hands when it is told to stop.
const IN_HAND_MAX: usize = 20_000;
/// About a kilobyte a row on disk, indexes and log included, with 200 bytes of payload.
const BYTES_PER_ROW: u64 = 1_000;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Rows of the large backlog; it takes about a kilobyte of disk for each, which is free again at the end.
    #[arg(long, default_value_t = 10_000_000)]
    rows: usize,
    /// Rows whose rate is taken, and all that the small backlog has.
    #[arg(long, default_value_t = 200_000)]
    first: usize,
    /// Ordering keys, in turn.
    #[arg(long, default_value_t = 20_000)]
    keys: usize,
    /// Bytes of JSON in each row.
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Rounds; each runs both sides once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rows that the relay drains while its memory is sampled.
    #[arg(long, default_value_t = 1_000_000)]
    memory_rows: usize,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let target = &options.target;
    let (large, large_pool) = outbox::database().await?;
    let (small, small_pool) = outbox::database().await?;
    let transport = target.transport()?;
    let queue = target.declare(&transport).await?;
    // What the rounds and the samples take away is replaced, so that the whole backlog is behind the first rows in each.
    let rows = options.rows + (options.first + IN_HAND_MAX) * options.rounds + options.memory_rows;
    let bytes = rows as u64 * BYTES_PER_ROW / 1_000_000_000;
    eprintln!("backlog: loading {rows} rows: some {bytes} GB");
    let began = Instant::now();
    options.backlog(&queue, rows).fill(&large.pool).await?;
    sqlx::raw_sql("VACUUM outbox").execute(&large.pool).await?;
    eprintln!("backlog: loaded in {:.0} s", began.elapsed().as_secs_f64());

    let mut report = Report::new("backlog");
    for round in 0..options.rounds {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let side = (round + turn) % 2;
            rates[side] = if side == 0 {
                first_rows(options, &large, &large_pool).await?
            } else {
                options.backlog(&queue, options.first).fill(&small.pool).await?;
                first_rows(options, &small, &small_pool).await?
            };
        }
        report.round(Round { ours: rates[0], bare: rates[1], others: Vec::new() });
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&large.pool).await?;
    ensure!(left >= i64::try_from(options.rows)?, "only {left} rows were left behind the first ones");
    let memory = resident::drained_by_a_process(target, &large, options.memory_rows).await?;
    let disk: i64 =
        sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&large.pool).await?;
    // The broker drops what was published; nobody counts it here.
    target.delete(&queue).await?;
    outbox::conditions(&large.pool, &mut report).await?;
    target.conditions(&mut report);
    report.condition("rows", options.rows);
    report.condition("first", options.first);
    report.condition("keys", options.keys);
    report.condition("payload", options.payload);
    report.condition("rows_per_transaction", ROWS_PER_TRANSACTION);
    report.condition("rounds", options.rounds);
    report.condition("database_bytes", disk);
    report.condition("memory_rows", options.memory_rows);
    report.condition("resident_mib_max", memory.mib_max);
    report.condition("resident_mib_growth", memory.mib_growth);
    report.condition("wanted", "ratio >= 0.9, resident_mib_max <= 64, resident_mib_growth about 0");
    large.drop_now().await;
    small.drop_now().await;
    Ok(report)
}

impl Options {
    fn backlog<'a>(&self, queue: &'a str, rows: usize) -> Backlog<'a> {
        Backlog {
            queue,
            rows,
            keys: self.keys,
            rows_per_transaction: ROWS_PER_TRANSACTION,
            payload: self.payload,
        }
    }
}

/// The rate at which a relay that has just started gets the first rows confirmed.
async fn first_rows(
    options: &Options,
    database: &TestDatabase<Postgres>,
    pool: &AnyPool,
) -> anyhow::Result<f64> {
    settle(&database.pool).await?;
    let target = &options.target;
    let sink = target.sink(target.transport()?);
    let began = Instant::now();
    let mut relay = Running::start(source::open::source("bench", pool), sink, target.default_order())?;
    relay.confirmed(options.first).await?;
    let took = began.elapsed();
    relay.stop().await?;
    Ok(rate(options.first, took))
}

/// What autovacuum would have done long since on a backlog of that age: no dead rows are left in front.
async fn settle(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("VACUUM outbox").execute(pool).await.context("vacuuming")?;
    sqlx::raw_sql("CHECKPOINT").execute(pool).await.context("a checkpoint")?;
    Ok(())
}
