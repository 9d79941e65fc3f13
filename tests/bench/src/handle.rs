//! `handle`: one message with a unit of work, an outbox and idempotency, against the same SQL by hand.
//!
//! A message is one idempotency record, one business row and one outbox row. By hand it is five statements: BEGIN, the
//! three inserts, COMMIT. Two kinds of hand: *held*, where each worker keeps its connection and so makes exactly five round
//! trips (the ratio is against this one), and *pooled*, where it takes a connection from the pool for each message.

mod batched;
mod by_hand;
mod spent;
mod subject;
mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use barid::{
    Bus, Context, Message, Outgoing, SqlIdempotency, SqlOutbox, SqlUnitOfWork, store::schema,
    transport::memory::Memory,
};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sqlx::{Pool, pool::PoolOptions};
use tokio::task::JoinSet;

use crate::report::{Report, Round, rate};
use spent::Spent;
use subject::{ByHand, Subject, Work};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database of the unit of work.
    #[arg(long, value_enum)]
    database: Database,
    /// Messages handled at the same time, on both sides.
    #[arg(long, default_value_t = 32)]
    in_flight: u32,
    /// Rounds; each runs every side once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of each side in each round.
    #[arg(long, default_value_t = 6000)]
    messages: usize,
    /// Slices of a round: the sides take turns after each, so that what disturbs the machine disturbs all of them.
    #[arg(long, default_value_t = 10)]
    slices: usize,
    /// Milliseconds that a round trip to the server takes longer, on both sides: a proxy in this process adds them, and its CPU
    /// time counts as the client's.
    #[arg(long, default_value_t = 0)]
    network_ms: u64,
    /// The process id of the server, when it runs on this machine: shows what a message costs it, its children included.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Messages in one unit of work, against the same messages one by one instead of by hand.
    #[arg(long)]
    batch: Option<usize>,
    /// With `--batch`: instead of rates, whether memory stays flat over the messages.
    #[arg(long, requires = "batch")]
    memory: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Database {
    Postgres,
    Mariadb,
    /// Only with `--batch`.
    Sqlite,
}

/// The command that is handled.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct PlaceOrder {
    pub(crate) order: i64,
    pub(crate) customer: i64,
    pub(crate) note: String,
}

/// The event that its handler publishes: 512 bytes or so.
#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct OrderPlaced {
    pub(crate) order: i64,
    pub(crate) customer: i64,
    pub(crate) note: String,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    match (options.database, options.batch) {
        (Database::Postgres, None) => compare::<sqlx::Postgres>(options).await,
        (Database::Mariadb, None) => compare::<sqlx::MySql>(options).await,
        (Database::Sqlite, None) => {
            bail!("on SQLite there is nothing to compare with by hand: add --batch 50")
        }
        (Database::Postgres, Some(batch)) => in_batches::<sqlx::Postgres>(options, batch).await,
        (Database::Mariadb, Some(batch)) => in_batches::<sqlx::MySql>(options, batch).await,
        (Database::Sqlite, Some(batch)) => in_batches::<sqlx::Sqlite>(options, batch).await,
    }
}

async fn in_batches<DB: Subject>(options: &Options, batch: usize) -> anyhow::Result<Report> {
    if options.memory {
        batched::memory::<DB>(options, batch).await
    } else {
        batched::compare::<DB>(options, batch).await
    }
}

async fn place_order<DB: Subject>(command: PlaceOrder, cx: Context) -> barid::Result<()> {
    let mut db = cx.unit_of_work::<DB>().await?;
    DB::business(&mut db, &command).await?;
    let PlaceOrder { order, customer, note } = command;
    cx.publish(Outgoing::new(OrderPlaced { order, customer, note }).key(customer))
}

fn bus<DB: Subject>(pool: Pool<DB>) -> anyhow::Result<Bus> {
    let bus = Bus::builder("order-desk")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .handler(place_order::<DB>);
    Ok(bus.build()?)
}

/// One of the sides that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Held,
    Pooled,
}

const SIDES: [Side; 3] = [Side::Ours, Side::Held, Side::Pooled];

async fn compare<DB: ByHand>(options: &Options) -> anyhow::Result<Report> {
    let database = DB::database().await;
    let network = match options.network_ms {
        0 => None,
        latency => Some(wire::Network::new::<DB>(&database.url, Duration::from_millis(latency)).await?),
    };
    let url = network.as_ref().map_or(&database.url, |network| &network.url);
    // Larger than what is in flight, so that nobody waits for a connection; one for each side, so that neither side inherits
    // the other's connections.
    let pool = |_| PoolOptions::<DB>::new().max_connections(options.in_flight + 8).connect_lazy(url);
    let pools = [pool(Side::Ours)?, pool(Side::Held)?, pool(Side::Pooled)?];
    schema::apply(&DB::any(&database.pool)).await.context("applying the schema")?;
    DB::create_business_table(&database.pool).await?;
    let bus = bus(pools[0].clone())?;

    let run = async |side, messages: std::ops::Range<usize>| {
        let count = messages.len();
        let work = Arc::new(Queue::new(messages));
        let mut workers = JoinSet::new();
        let before = Spent::until_now(options.server_pid);
        for _ in 0..options.in_flight {
            let work = Arc::clone(&work);
            match side {
                Side::Ours => workers.spawn(ours(bus.clone(), work)),
                Side::Held => workers.spawn(by_hand::held(pools[1].clone(), work)),
                Side::Pooled => workers.spawn(by_hand::pooled(pools[2].clone(), work)),
            };
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        anyhow::Ok((count, Spent::until_now(options.server_pid) - before))
    };

    // Connections are made and statements prepared before anything is measured.
    let warm_up = options.messages.min(40 * options.in_flight as usize);
    for side in SIDES {
        DB::empty(&database.pool).await?;
        run(side, 0..warm_up).await?;
    }
    let mut report = Report::new("handle");
    for round in 0..options.rounds {
        DB::empty(&database.pool).await?;
        let mut spent = [(0, Spent::default()); SIDES.len()];
        let slices = options.slices.clamp(1, options.messages.max(1));
        let mut first = 0;
        for slice in 0..slices {
            let messages = options.messages * (slice + 1) / slices - options.messages * slice / slices;
            for turn in 0..SIDES.len() {
                let side = SIDES[(round + slice + turn) % SIDES.len()];
                let (count, slice) = run(side, first..first + messages).await?;
                first += messages;
                let (all, sum) = &mut spent[side as usize];
                *all += count;
                *sum = *sum + slice;
            }
        }
        let (counts, expected) = (DB::counts(&database.pool).await?, i64::try_from(first)?);
        ensure!(counts == [expected; 3], "{counts:?} rows are left of {expected} messages");
        let [ours, held, pooled] = spent.map(|(count, spent)| rate(count, spent.time));
        let mut others = vec![("ours/pooled", ours / pooled)];
        let micros = |side: Side, of: fn(&Spent) -> Duration| {
            let (count, spent) = &spent[side as usize];
            1e6 / rate(*count, of(spent))
        };
        others.push(("ours client us", micros(Side::Ours, |spent| spent.client)));
        others.push(("bare client us", micros(Side::Held, |spent| spent.client)));
        if options.server_pid.is_some() {
            others.push(("ours server us", micros(Side::Ours, |spent| spent.server)));
            others.push(("bare server us", micros(Side::Held, |spent| spent.server)));
        }
        report.round(Round { ours, bare: held, others });
    }
    report.condition("database", DB::version(&database.pool).await?);
    report.condition("in_flight", options.in_flight);
    report.condition("rounds", options.rounds);
    report.condition("messages", options.messages);
    report.condition(
        "round_trips_beyond_handler",
        wire::round_trips_beyond_handler::<DB>(&database.url).await?,
    );
    report.condition("network_ms", options.network_ms);
    if let Some(network) = &network {
        report.condition("round_trip_ms_measured", network.round_trip_ms);
    }
    for pool in pools {
        pool.close().await;
    }
    database.drop_now().await;
    Ok(report)
}

/// The work of one side, made before the clock starts and taken by whichever worker is free.
struct Queue(Mutex<std::vec::IntoIter<Work>>);

impl Queue {
    fn new(messages: std::ops::Range<usize>) -> Self {
        Self(Mutex::new(messages.map(Work::new).collect::<Vec<_>>().into_iter()))
    }

    fn take(&self) -> Option<Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

async fn ours(bus: Bus, queue: Arc<Queue>) -> anyhow::Result<()> {
    while let Some(work) = queue.take() {
        bus.handle(work.delivery).await.map_err(anyhow::Error::msg)?;
    }
    Ok(())
}
