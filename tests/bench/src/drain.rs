//! `drain`: a backlog in a PostgreSQL outbox, emptied by the relay and by a loop by hand.
//!
//! Both connect, read, publish, wait for confirms and delete within the measured time. The loop by hand is the yardstick
//! only if it is a good one: in each round it is compared with publishing the same rows from memory, and a round in which it
//! reaches less than 85 % of that is void and run again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use barid::{
    store::{AnyPool, schema},
    transport::{Inbox, Transport, kafka::Kafka, rabbitmq::RabbitMq},
};
use barid_relay::{
    Relay,
    lane::{Order, Window},
    sink::Sink,
    source,
};
use barid_tests::{TestDatabase, names, servers};
use clap::{Args, ValueEnum};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::sync::oneshot;

use crate::{
    bare::{self, Publish, Windowed},
    report::{Report, Round, rate},
};

/// What a bare loop must reach of publishing alone.
const BARE_MIN: f64 = 0.85;
/// Rows of one transaction of the backlog: one transaction for all would give every row the same xid.
const ROWS_PER_TRANSACTION: usize = 10;
/// Channels of the relay's RabbitMQ sink, and of the loop by hand.
const CHANNELS: u16 = 4;
const WINDOW_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long one side may take before the run is given up.
const SIDE_MAX: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the rows go.
    #[arg(long, value_enum)]
    sink: Kind,
    /// Rows of the backlog.
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    /// Rounds that count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rows in flight. Default: 4000 for a quorum queue, 256 for a classic one, 10000 for Kafka.
    #[arg(long)]
    window: Option<usize>,
    /// A classic queue instead of a quorum queue.
    #[arg(long)]
    classic: bool,
    /// Ordering keys, in turn. With fewer than the window, strict order limits what is in flight.
    #[arg(long, default_value_t = 20_000)]
    keys: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Rabbitmq,
    Kafka,
}

impl Options {
    fn window(&self) -> usize {
        self.window.unwrap_or(match self.sink {
            Kind::Rabbitmq if self.classic => 256,
            Kind::Rabbitmq => 4_000,
            Kind::Kafka => 10_000,
        })
    }

    fn transport(&self) -> anyhow::Result<Arc<dyn Transport>> {
        Ok(match self.sink {
            Kind::Rabbitmq => {
                let mut settings = barid::transport::rabbitmq::Settings::new(servers::amqp());
                settings.window_rows_max = self.window();
                settings.window_bytes_max = WINDOW_BYTES_MAX;
                settings.channels = CHANNELS;
                settings.quorum = !self.classic;
                Arc::new(RabbitMq::new(settings)?)
            }
            Kind::Kafka => {
                let mut settings = barid::transport::kafka::Settings::new(servers::kafka());
                settings.window_rows_max = self.window();
                settings.window_bytes_max = WINDOW_BYTES_MAX;
                Arc::new(Kafka::new(settings)?)
            }
        })
    }
}

/// One of the sides that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Bare,
    PublishOnly,
}

const SIDES: [Side; 3] = [Side::Ours, Side::Bare, Side::PublishOnly];

/// Where it happens.
struct Bench<'a> {
    options: &'a Options,
    database: TestDatabase<Postgres>,
    pool: AnyPool,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let database = TestDatabase::postgres().await;
    let pool = AnyPool::from(database.pool.clone());
    schema::apply(&pool).await.context("applying the schema")?;
    let bench = Bench { options, database, pool };
    let mut report = Report::new("drain");
    let (mut round, mut counted, mut void) = (0, 0, 0);
    while counted < options.rounds {
        ensure!(void <= options.rounds, "{void} rounds were void: the machine is too busy to measure on");
        let mut rates = [0.0; SIDES.len()];
        for turn in 0..SIDES.len() {
            let side = SIDES[(round + turn) % SIDES.len()];
            let measured = tokio::time::timeout(SIDE_MAX, bench.side(side)).await;
            rates[side as usize] =
                measured.with_context(|| format!("{side:?} took longer than {SIDE_MAX:?}"))??;
        }
        round += 1;
        let [ours, bare, publish_only] = rates;
        // A backlog of a few hundred rows is a smoke test: connecting takes longer than publishing.
        if bare / publish_only < BARE_MIN && options.rows >= bare::BATCH_ROWS * 5 {
            void += 1;
            eprintln!("drain: void: bare {bare:.0}/s is {:.3} of publishing alone", bare / publish_only);
            continue;
        }
        counted += 1;
        report.round(Round { ours, bare, others: vec![("bare/publish-only", bare / publish_only)] });
    }
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&bench.database.pool).await?;
    report.condition("database", format!("PostgreSQL {version}"));
    report.condition("sink", format!("{:?}", options.sink).to_lowercase());
    if options.sink == Kind::Rabbitmq {
        report.condition("queue", if options.classic { "classic" } else { "quorum" });
        report.condition("channels", CHANNELS);
    }
    report.condition("window", options.window());
    report.condition("batch", bare::BATCH_ROWS);
    report.condition("rows", options.rows);
    report.condition("keys", options.keys);
    report.condition("rounds", options.rounds);
    report.condition("void_rounds", void);
    report.condition("version", env!("CARGO_PKG_VERSION"));
    bench.database.drop_now().await;
    Ok(report)
}

impl Bench<'_> {
    /// Rows a second of one side, on a queue of its own.
    async fn side(&self, side: Side) -> anyhow::Result<f64> {
        let transport = self.options.transport()?;
        let queue = names::unique("drain");
        transport.declare(&Inbox::new(queue.clone())).await?;
        fill(&self.database.pool, &queue, self.options).await?;
        let took = match side {
            Side::Ours => self.ours(transport).await?,
            Side::Bare | Side::PublishOnly => match self.options.sink {
                Kind::Rabbitmq => self.bare(side, || bare::rabbitmq::Client::connect(CHANNELS)).await?,
                Kind::Kafka => self.bare(side, async || bare::kafka::Client::new(&servers::kafka())).await?,
            },
        };
        self.remove(&queue).await?;
        Ok(rate(self.options.rows, took))
    }

    async fn ours(&self, transport: Arc<dyn Transport>) -> anyhow::Result<Duration> {
        let window = Window { rows_max: self.options.window(), bytes_max: WINDOW_BYTES_MAX };
        let relay = Relay::builder(source::open::source("bench", &self.pool))
            .sink(Sink::new("sink", transport).window(window))
            .route("*", "sink", Order::Strict)
            .build()?;
        let mut stats = relay.stats();
        let (stop, stopped) = oneshot::channel::<()>();
        let began = Instant::now();
        let running = tokio::spawn(relay.run_until(async {
            // Told to stop, or nobody is there any more who could.
            let _ = stopped.await;
        }));
        let rows = self.options.rows as u64;
        stats.wait_for(|stats| stats.confirmed >= rows).await.context("the relay has ended")?;
        while count(&self.database.pool).await? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        // The relay listens until it is told; if it has ended, its answer says why.
        let _ = stop.send(());
        running.await??;
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
            while memory.len() < self.options.rows {
                let after = memory.last().map_or(i64::MIN, |row: &bare::Row| row.seq);
                memory.extend(bare::fetch(&mut reader, after).await?);
            }
        }
        let began = Instant::now();
        let mut publisher = Windowed::new(connect().await?, self.options.window());
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
        bare::drain(&mut reader, &mut writer, &mut publisher, self.options.rows).await?;
        let took = began.elapsed();
        ensure!(count(&self.database.pool).await? == 0, "rows are left in the outbox");
        Ok(took)
    }

    /// Checks that the broker has every row, and deletes the queue: a full one slows the broker down.
    async fn remove(&self, queue: &str) -> anyhow::Result<()> {
        if self.options.sink == Kind::Kafka {
            names::delete_kafka_topic(queue).await;
            return Ok(());
        }
        let held = bare::rabbitmq::delete(queue).await?;
        ensure!(
            held as usize == self.options.rows,
            "the queue holds {held} messages for {} rows",
            self.options.rows
        );
        Ok(())
    }
}

async fn count(pool: &PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM (SELECT FROM outbox LIMIT 1) t").fetch_one(pool).await?)
}

/// Fills the outbox as an application would have: in small transactions, 512 bytes of JSON and the usual headers a row.
async fn fill(pool: &PgPool, queue: &str, options: &Options) -> anyhow::Result<()> {
    sqlx::query("TRUNCATE outbox").execute(pool).await?;
    let load = format!(
        "DO $$ BEGIN FOR t IN 0..{last} LOOP
           INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers)
           SELECT gen_random_uuid(), 'queue:{queue}', 'orders', (n % {keys})::text, 'orders.placed',
                  convert_to(format('{{\"order\":%s,\"note\":\"%s\"}}', lpad(n::text, 9, '1'), repeat('n', 482)), 'UTF8'),
                  jsonb_build_object('barid-source', 'order-desk', 'barid-sent-at', '2026-11-21T02:15:00.123Z',
                    'content-type', 'application/json', 'barid-correlation-id', gen_random_uuid())
           FROM generate_series(t * {step}, least((t + 1) * {step}, {rows}) - 1) n;
           COMMIT;
         END LOOP; END $$",
        last = options.rows.div_ceil(ROWS_PER_TRANSACTION).saturating_sub(1),
        step = ROWS_PER_TRANSACTION,
        rows = options.rows,
        keys = options.keys.max(1),
    );
    let mut connection = pool.acquire().await?;
    sqlx::raw_sql("SET synchronous_commit = off").execute(&mut *connection).await?;
    // Names and numbers only.
    sqlx::raw_sql(sqlx::AssertSqlSafe(load)).execute(&mut *connection).await?;
    sqlx::raw_sql("RESET synchronous_commit; ANALYZE outbox").execute(&mut *connection).await?;
    let filled: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut *connection).await?;
    ensure!(usize::try_from(filled)? == options.rows, "{filled} rows in the backlog");
    Ok(())
}
