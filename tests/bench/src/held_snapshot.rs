//! `held-snapshot`: what a read of the relay costs while somebody holds an old snapshot, which keeps dead rows in the table.
//!
//! An application commits events at a steady rate and a relay publishes and deletes them, while another session keeps the snapshot
//! that it took at the beginning. Each read of the relay's reader that found rows is timed; the figure is the median of the last
//! sixth of the time against that of the first. Beside it, ten times a second, two reads by hand: the head of the outbox, which
//! passes every dead row (what such a relay would pay), and the same number of rows of a table that nobody changes (what the
//! machine itself became slower by).

mod timed;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use barid::store::AnyPool;
use barid_relay::source;
use barid_tests::TestDatabase;
use clap::Args;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::timed::{Reads, TimedSource};
use crate::{
    outbox::{self, INSERT},
    report::{Report, Round, median},
    running::Running,
    target::Target,
};

/// Connections of the application.
const WRITERS: usize = 4;
/// How often the reads by hand are made.
const BY_HAND_EVERY: Duration = Duration::from_millis(100);
const STILL: &str = "CREATE TABLE still AS SELECT n::bigint AS seq, repeat('n', 512) AS payload FROM generate_series(1, 20) n; \
    ALTER TABLE still ADD PRIMARY KEY (seq); ANALYZE still";

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Events a second.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Seconds for which the snapshot is held.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new("held-snapshot").unit("us a read");
    for _ in 0..options.rounds {
        // A database for each round: dead rows of an earlier one would be there from the beginning.
        let (database, pool) = outbox::database().await?;
        sqlx::raw_sql(STILL).execute(&database.pool).await?;
        let measured = held(options, &database, &pool).await;
        if report.is_empty() {
            outbox::conditions(&database.pool, &mut report).await?;
        }
        database.drop_now().await;
        report.round(measured?);
    }
    options.target.conditions(&mut report);
    report.condition("rate", options.rate);
    report.condition("seconds", options.seconds);
    report.condition("rounds", options.rounds);
    report.condition("ours_is", "the last reads");
    report.condition("bare_is", "the first reads");
    report.condition("wanted", "ratio <= 1.2");
    Ok(report)
}

async fn held(options: &Options, database: &TestDatabase<Postgres>, pool: &AnyPool) -> anyhow::Result<Round> {
    let target = &options.target;
    let transport = target.transport()?;
    let queue = target.declare(&transport).await?;
    let reads = Arc::new(Reads::default());
    let source = TimedSource::new(source::open::source("bench", pool), Arc::clone(&reads));
    let mut relay = Running::start(Arc::new(source), target.sink(transport), target.default_order())?;
    let mut holder = PgConnection::connect(&database.url).await?;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox")
        .execute(&mut holder)
        .await?;
    let (began, length) = (Instant::now(), Duration::from_secs_f64(options.seconds));
    let by_hand = ByHand::default();
    let written = tokio::select! {
        written = write(options, &database.url, &queue, length) => written?,
        ended = by_hand.read(&database.url) => ended.and(Err(anyhow::anyhow!("reading by hand has ended")))?,
    };
    relay.confirmed(written).await?;
    holder.ping().await.context("the snapshot was lost")?;
    holder.close().await?;
    relay.stop().await?;
    target.remove(&queue, written).await?;

    let share = length / 6;
    let first_and_last = |all: &[(Instant, f64)]| {
        let of = |from: Instant, below: Instant| {
            let within = all.iter().filter(|(at, _)| *at >= from && *at < below);
            median(within.map(|(_, took)| *took))
        };
        // Not the very first second: statements are prepared, pages are read in.
        let settled = began + length.mul_f64(0.02);
        (of(settled, settled + share), of(began + length - share, began + length))
    };
    let (first, last) = first_and_last(&reads.taken());
    let (head_first, head_last) = first_and_last(&by_hand.head.taken());
    let (still_first, still_last) = first_and_last(&by_hand.still.taken());
    ensure!(first.is_finite() && last.is_finite(), "too few reads: let it run for longer");
    Ok(Round {
        ours: last,
        bare: first,
        others: vec![
            ("head read ratio", head_last / head_first),
            ("machine ratio", still_last / still_first),
        ],
    })
}

/// Commits events at the rate; returns how many.
async fn write(options: &Options, url: &str, queue: &str, length: Duration) -> anyhow::Result<usize> {
    let destination = format!("queue:{queue}");
    let mut writers = JoinSet::new();
    let begin = tokio::time::Instant::now();
    let each = Duration::from_secs_f64(1.0 / f64::from(options.rate));
    for first in (0u32..).take(WRITERS) {
        let (mut connection, destination) = (outbox::unflushed(url).await?, destination.clone());
        writers.spawn(async move {
            let mut count = 0;
            for number in (first..u32::MAX).step_by(WRITERS) {
                let due = begin + each * number;
                if due >= begin + length {
                    break;
                }
                tokio::time::sleep_until(due).await;
                sqlx::query(INSERT)
                    .bind(Uuid::now_v7())
                    .bind(&destination)
                    .bind((number % 1_000).to_string())
                    .bind(vec![b'n'; 512])
                    .execute(&mut connection)
                    .await?;
                count += 1;
            }
            connection.close().await?;
            anyhow::Ok(count)
        });
    }
    let mut written = 0;
    while let Some(writer) = writers.join_next().await {
        written += writer??;
    }
    Ok(written)
}

/// Reads that a person would write, and what each took in microseconds.
#[derive(Default)]
struct ByHand {
    head: Reads,
    still: Reads,
}

impl ByHand {
    async fn read(&self, url: &str) -> anyhow::Result<()> {
        let mut reader = PgConnection::connect(url).await?;
        let mut ticks = tokio::time::interval(BY_HAND_EVERY);
        loop {
            for (text, into) in [
                ("SELECT seq, payload FROM outbox ORDER BY seq LIMIT 20", &self.head),
                ("SELECT seq, payload FROM still ORDER BY seq LIMIT 20", &self.still),
            ] {
                ticks.tick().await;
                let began = Instant::now();
                sqlx::query(text).fetch_all(&mut reader).await?;
                into.book(began);
            }
        }
    }
}
