//! `latency`: from an application's COMMIT to the broker's confirm, one event at a time at a steady rate.
//!
//! Ours is the relay, woken by its doorbell after each commit; `--wake poll` leaves it to its polling. By hand it is a loop that
//! LISTENs: the application's INSERT also notifies, the loop reads the head of the table, publishes what is not in flight yet,
//! and deletes what is confirmed. The same clients, the same writers, the same queue on both sides. A latency is counted from
//! the answer to the COMMIT; the bare side's commits pay for NOTIFY, which is not counted.

mod by_hand;
mod observed;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use barid::{Doorbell, store::AnyPool};
use barid_relay::source;
use barid_tests::{TestDatabase, servers};
use clap::{Args, ValueEnum};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres};
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use uuid::Uuid;

use self::observed::Observed;
use crate::{
    bare,
    outbox::{self, INSERT},
    report::{Report, Round, quantile},
    running::{Running, SIDE_MAX},
    target::{CHANNELS, Kind, Target},
};

/// Connections of the application.
const WRITERS: usize = 8;
/// What is written before the clock counts, in seconds.
const WARM_UP_S: f64 = 0.5;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Events a second.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Latencies taken of each side in each round.
    #[arg(long, default_value_t = 5_000)]
    samples: usize,
    /// Rounds; each runs both sides once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What wakes the relay.
    #[arg(long, value_enum, default_value_t = Wake::Doorbell)]
    wake: Wake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wake {
    Doorbell,
    Poll,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Ours,
    Bare,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let (database, pool) = outbox::database().await?;
    let mut report = Report::new("latency").unit("us p50");
    for round in 0..options.rounds {
        let order = if round % 2 == 0 { [Side::Ours, Side::Bare] } else { [Side::Bare, Side::Ours] };
        let mut taken = [Vec::new(), Vec::new()];
        for side in order {
            taken[side as usize] = measured(options, side, &database, &pool).await?;
        }
        let [ours, bare] = taken;
        let (ours_p99, bare_p99) = (quantile(&ours, 0.99), quantile(&bare, 0.99));
        report.round(Round {
            ours: quantile(&ours, 0.5),
            bare: quantile(&bare, 0.5),
            others: vec![("ours p99", ours_p99), ("bare p99", bare_p99), ("p99 ratio", ours_p99 / bare_p99)],
        });
    }
    outbox::conditions(&database.pool, &mut report).await?;
    options.target.conditions(&mut report);
    report.condition("rate", options.rate);
    report.condition("wake", format!("{:?}", options.wake).to_lowercase());
    report.condition("writers", WRITERS);
    report.condition("samples", options.samples * options.rounds);
    report.condition("rounds", options.rounds);
    report.condition("wanted", "ratio <= 1.5, p99_ratio <= 2.0, samples >= 5000");
    database.drop_now().await;
    Ok(report)
}

/// The latencies of one side in microseconds, in order.
async fn measured(
    options: &Options,
    side: Side,
    database: &TestDatabase<Postgres>,
    pool: &AnyPool,
) -> anyhow::Result<Vec<f64>> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some hundred
    let warm_up = (f64::from(options.rate) * WARM_UP_S) as usize;
    sqlx::raw_sql("TRUNCATE outbox").execute(&database.pool).await?;
    let target = &options.target;
    let plain = target.transport()?;
    let queue = target.declare(&plain).await?;
    let times = Arc::new(Times::new(warm_up + options.samples));
    let writing = |insert: String, bell: Option<Doorbell>| {
        let work = Writing { insert, bell, queue: format!("queue:{queue}"), rate: options.rate };
        work.all(&database.url, Arc::clone(&times))
    };
    match side {
        Side::Ours => {
            let sink = target.sink(Arc::new(Observed::new(plain, Arc::clone(&times))));
            let source = source::open::source("bench", pool);
            let relay = Running::start(source, sink, target.default_order())?;
            let bell = (options.wake == Wake::Doorbell).then(|| relay.doorbell.clone());
            writing(INSERT.to_owned(), bell).await?;
            times.all_confirmed().await?;
            relay.stop().await?;
        }
        Side::Bare => {
            // One statement, so that the commit takes one round trip on both sides.
            let insert =
                format!("WITH row AS ({INSERT} RETURNING seq) SELECT pg_notify('outbox', '') FROM row");
            let writing = writing(insert, None);
            let url = &database.url;
            match target.sink {
                Kind::Rabbitmq => {
                    let client = bare::rabbitmq::Client::connect(CHANNELS).await?;
                    by_hand::beside(url, client, &times, writing).await?;
                }
                Kind::Kafka => {
                    by_hand::beside(url, bare::kafka::Client::new(&servers::kafka())?, &times, writing)
                        .await?;
                }
            }
        }
    }
    target.remove(&queue, times.len()).await?;
    times.latencies(warm_up)
}

/// An application that commits events at a steady rate.
struct Writing {
    insert: String,
    bell: Option<Doorbell>,
    queue: String,
    rate: u32,
}

impl Writing {
    async fn all(self, url: &str, times: Arc<Times>) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let mut connections = Vec::new();
        for _ in 0..WRITERS {
            connections.push(PgConnection::connect(url).await?);
        }
        let mut writers = JoinSet::new();
        let begin = tokio::time::Instant::now();
        for (first, connection) in connections.into_iter().enumerate() {
            writers.spawn(Arc::clone(&this).some(connection, first, begin, Arc::clone(&times)));
        }
        while let Some(writer) = writers.join_next().await {
            writer??;
        }
        Ok(())
    }

    /// Every so-manieth event, each when it is due.
    async fn some(
        self: Arc<Self>,
        mut connection: PgConnection,
        first: usize,
        begin: tokio::time::Instant,
        times: Arc<Times>,
    ) -> anyhow::Result<()> {
        for number in (first..times.len()).step_by(WRITERS) {
            #[allow(clippy::cast_precision_loss)] // far below 2^52
            let due = Duration::from_secs_f64(number as f64 / f64::from(self.rate));
            tokio::time::sleep_until(begin + due).await;
            sqlx::query(AssertSqlSafe(self.insert.as_str()))
                .bind(times.id_of(number))
                .bind(&self.queue)
                .bind((number % 1_000).to_string())
                .bind(vec![b'n'; 512])
                .execute(&mut connection)
                .await?;
            times.committed(number);
            if let Some(bell) = &self.bell {
                bell.ring();
            }
        }
        connection.close().await?;
        Ok(())
    }
}

/// When each event was committed, and when it was confirmed.
pub(crate) struct Times {
    run: u64,
    events: Mutex<Vec<(Option<Instant>, Option<Instant>)>>,
    confirmed: AtomicUsize,
    all: Notify,
}

impl Times {
    fn new(events: usize) -> Self {
        let run = Uuid::now_v7().as_u64_pair().1;
        Self {
            run,
            events: Mutex::new(vec![(None, None); events]),
            confirmed: AtomicUsize::new(0),
            all: Notify::new(),
        }
    }

    fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The message id of an event: it says the event's number.
    fn id_of(&self, number: usize) -> Uuid {
        Uuid::from_u64_pair(self.run, number as u64)
    }

    fn committed(&self, number: usize) {
        let now = Instant::now();
        self.events.lock().unwrap_or_else(PoisonError::into_inner)[number].0 = Some(now);
    }

    /// The broker has the event with this id for good.
    pub(crate) fn confirmed(&self, id: Uuid) {
        let now = Instant::now();
        let (run, number) = id.as_u64_pair();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let event =
            usize::try_from(number).ok().filter(|_| run == self.run).and_then(|at| events.get_mut(at));
        // A row that is published twice counts when it is confirmed first.
        if let Some((_, confirmed @ None)) = event {
            *confirmed = Some(now);
            if self.confirmed.fetch_add(1, Ordering::SeqCst) + 1 == events.len() {
                self.all.notify_one();
            }
        }
    }

    /// Waits until every event is confirmed.
    async fn all_confirmed(&self) -> anyhow::Result<()> {
        timeout(SIDE_MAX, self.all.notified()).await.context("some events were not confirmed")
    }

    /// What the events after the first `warm_up` ones took, in microseconds, in order.
    fn latencies(&self, warm_up: usize) -> anyhow::Result<Vec<f64>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::with_capacity(events.len());
        for (committed, confirmed) in &events[warm_up..] {
            let (Some(committed), Some(confirmed)) = (committed, confirmed) else { continue };
            // A confirm can be there before the application has heard of its commit.
            taken.push(confirmed.saturating_duration_since(*committed).as_secs_f64() * 1e6);
        }
        ensure!(taken.len() == events.len() - warm_up, "only {} events were confirmed", taken.len());
        taken.sort_by(f64::total_cmp);
        Ok(taken)
    }
}
