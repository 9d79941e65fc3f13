//! `drain`: a backlog in a PostgreSQL outbox, emptied by the relay and by a loop by hand.
//!
//! Both connect, read, publish, wait for confirms and delete within the measured time. The loop by hand is the yardstick
//! only if it is a good one: in each round it is compared with publishing the same rows from memory, and a round in which it
//! reaches less than 85 % of that is void and run again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use barid::store::AnyPool;
use barid_relay::{lane::Order, source};
use barid_tests::{TestDatabase, servers};
use clap::{Args, ValueEnum};
use sqlx::{Connection, PgConnection, Postgres};

use crate::{
    bare::{self, Publish, Windowed},
    outbox::{self, Backlog},
    report::{Report, Round, rate},
    running::{Running, SIDE_MAX},
    target::{CHANNELS, Kind, Target},
};

/// What a bare loop must reach of publishing alone.
const BARE_MIN: f64 = 0.85;
const ROWS_PER_TRANSACTION: usize = 10;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// The order that the relay keeps. Default: what it keeps on this broker, and in the same rounds what `pipelined` gives.
    #[arg(long, value_enum)]
    order: Option<Ordering>,
    /// Rows of the backlog. Default: 50000 for RabbitMQ, 200000 for Kafka, which take some seconds; connecting, which is
    /// measured too and costs the relay more than the loop, takes some hundredths of one.
    #[arg(long)]
    rows: Option<usize>,
    /// Rounds that count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Ordering keys, in turn. With fewer than the window, strict order limits what is in flight.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ordering {
    Strict,
    Pipelined,
    None,
}

impl Options {
    fn order(&self) -> Order {
        match self.order {
            None => self.target.default_order(),
            Some(Ordering::Strict) => Order::Strict,
            Some(Ordering::Pipelined) => Order::Pipelined,
            Some(Ordering::None) => Order::None,
        }
    }

    fn rows(&self) -> usize {
        self.rows.unwrap_or(match self.target.sink {
            Kind::Rabbitmq => 50_000,
            Kind::Kafka => 200_000,
        })
    }

    fn sides(&self) -> &'static [Side] {
        let both = self.order.is_none() && self.order() != Order::Pipelined;
        if both { &SIDES } else { &SIDES[..3] }
    }
}

/// One of the sides that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Bare,
    PublishOnly,
    /// Ours, where the broker's default order is another one.
    Pipelined,
}

const SIDES: [Side; 4] = [Side::Ours, Side::Bare, Side::PublishOnly, Side::Pipelined];

/// Where it happens.
struct Bench<'a> {
    options: &'a Options,
    database: TestDatabase<Postgres>,
    pool: AnyPool,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let (database, pool) = outbox::database().await?;
    let bench = Bench { options, database, pool };
    let mut report = Report::new("drain");
    let sides = options.sides();
    let (mut round, mut counted, mut void) = (0, 0, 0);
    while counted < options.rounds {
        ensure!(void <= options.rounds, "{void} rounds were void: the machine is too busy to measure on");
        let mut rates = [0.0; SIDES.len()];
        for turn in 0..sides.len() {
            let side = sides[(round + turn) % sides.len()];
            let measured = tokio::time::timeout(SIDE_MAX, bench.side(side)).await;
            rates[side as usize] =
                measured.with_context(|| format!("{side:?} took longer than {SIDE_MAX:?}"))??;
        }
        round += 1;
        let [ours, bare, publish_only, pipelined] = rates;
        // A backlog of a few hundred rows is a smoke test: connecting takes longer than publishing.
        if bare / publish_only < BARE_MIN && options.rows() >= bare::BATCH_ROWS * 5 {
            void += 1;
            eprintln!("drain: void: bare {bare:.0}/s is {:.3} of publishing alone", bare / publish_only);
            continue;
        }
        counted += 1;
        let mut others = vec![("bare/publish-only", bare / publish_only)];
        if sides.contains(&Side::Pipelined) {
            others.push(("pipelined/bare", pipelined / bare));
        }
        report.round(Round { ours, bare, others });
    }
    outbox::conditions(&bench.database.pool, &mut report).await?;
    options.target.conditions(&mut report);
    report.condition("order", format!("{:?}", options.order()).to_lowercase());
    report.condition("batch", bare::BATCH_ROWS);
    report.condition("rows", options.rows());
    report.condition("keys", options.keys);
    report.condition("rounds", options.rounds);
    report.condition("void_rounds", void);
    report.condition("wanted", "ratio >= 0.90");
    bench.database.drop_now().await;
    Ok(report)
}

impl Bench<'_> {
    /// Rows a second of one side, on a queue of its own.
    async fn side(&self, side: Side) -> anyhow::Result<f64> {
        let (target, rows) = (&self.options.target, self.options.rows());
        let transport = target.transport()?;
        let queue = target.declare(&transport).await?;
        let backlog = Backlog {
            queue: &queue,
            rows,
            keys: self.options.keys,
            rows_per_transaction: ROWS_PER_TRANSACTION,
            payload: 512,
        };
        backlog.fill(&self.database.pool).await?;
        let took = match side {
            Side::Ours => self.ours(self.options.order()).await?,
            Side::Pipelined => self.ours(Order::Pipelined).await?,
            Side::Bare | Side::PublishOnly => match target.sink {
                Kind::Rabbitmq => self.bare(side, || bare::rabbitmq::Client::connect(CHANNELS)).await?,
                Kind::Kafka => self.bare(side, async || bare::kafka::Client::new(&servers::kafka())).await?,
            },
        };
        target.remove(&queue, rows).await?;
        Ok(rate(rows, took))
    }

    async fn ours(&self, order: Order) -> anyhow::Result<Duration> {
        let target = &self.options.target;
        let sink = target.sink(target.transport()?);
        let began = Instant::now();
        let mut relay = Running::start(source::open::source("bench", &self.pool), sink, order)?;
        relay.left(self.options.rows()).await?;
        let took = began.elapsed();
        relay.stop().await?;
        // Not asked before: it walks over all the rows that were deleted, and takes longer than the rest of a round may.
        ensure!(outbox::is_empty(&self.database.pool).await?, "rows are left in the outbox");
        Ok(took)
    }

    async fn bare<P: Publish<Confirm: Unpin>>(
        &self,
        side: Side,
        connect: impl AsyncFnOnce() -> anyhow::Result<P>,
    ) -> anyhow::Result<Duration> {
        let mut memory = Vec::new();
        if side == Side::PublishOnly {
            let mut reader = PgConnection::connect(&self.database.url).await?;
            while memory.len() < self.options.rows() {
                let after = memory.last().map_or(i64::MIN, |row: &bare::Row| row.seq);
                memory.extend(bare::fetch(&mut reader, after).await?);
            }
        }
        let began = Instant::now();
        let mut publisher = Windowed::new(connect().await?, self.options.target.window());
        if side == Side::PublishOnly {
            publisher.publish_all(&memory).await?;
            let took = began.elapsed();
            sqlx::query("TRUNCATE outbox").execute(&self.database.pool).await?;
            return Ok(took);
        }
        let mut reader = PgConnection::connect(&self.database.url).await?;
        let mut writer = PgConnection::connect(&self.database.url).await?;
        // The relay's durability: a DELETE that a crash of the server loses makes a duplicate, never a loss.
        sqlx::query("SET synchronous_commit = off").execute(&mut writer).await?;
        bare::drain(&mut reader, &mut writer, &mut publisher, self.options.rows()).await?;
        let took = began.elapsed();
        ensure!(outbox::is_empty(&self.database.pool).await?, "rows are left in the outbox");
        Ok(took)
    }
}
