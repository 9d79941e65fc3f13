//! `handle`: one message with a unit of work, an outbox and idempotency, against the same SQL by hand.
//!
//! A message is one idempotency record, one business row and one outbox row. By hand it is five statements: BEGIN, the
//! three inserts, COMMIT. Two kinds of hand: *held*, where each worker keeps its connection and so makes exactly five round
//! trips (the ratio is against this one), and *pooled*, where it takes a connection from the pool for each message.

mod by_hand;
mod subject;
mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use barid::{
    Bus, Context, Message, Outgoing, SqlIdempotency, SqlOutbox, SqlUnitOfWork, store::schema,
    transport::memory::Memory,
};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sqlx::{Pool, pool::PoolOptions};
use tokio::task::JoinSet;

use crate::report::{Report, Round, median, rate};
use subject::{Subject, Work};

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
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Database {
    Postgres,
    Mariadb,
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
    match options.database {
        Database::Postgres => compare::<sqlx::Postgres>(options).await,
        Database::Mariadb => compare::<sqlx::MySql>(options).await,
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

async fn compare<DB: Subject>(options: &Options) -> anyhow::Result<Report> {
    let database = DB::database().await;
    // Larger than what is in flight, so that nobody waits for a connection; one for each side, so that neither side inherits
    // the other's connections.
    let pool =
        |_| PoolOptions::<DB>::new().max_connections(options.in_flight + 8).connect_lazy(&database.url);
    let pools = [pool(Side::Ours)?, pool(Side::Held)?, pool(Side::Pooled)?];
    schema::apply(&DB::any(&database.pool)).await.context("applying the schema")?;
    DB::create_business_table(&database.pool).await?;
    let bus = bus(pools[0].clone())?;

    let run = async |side, messages| {
        DB::empty(&database.pool).await?;
        let work = Arc::new(Queue::new(messages));
        let mut workers = JoinSet::new();
        let began = Instant::now();
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
        let took = began.elapsed();
        let counts = DB::counts(&database.pool).await?;
        ensure!(
            counts == [i64::try_from(messages)?; 3],
            "{side:?} left {counts:?} rows for {messages} messages"
        );
        Ok(rate(messages, took))
    };

    // Connections are made and statements prepared before anything is measured.
    for side in SIDES {
        run(side, options.messages.min(40 * options.in_flight as usize)).await?;
    }
    let mut report = Report::new("handle");
    let mut held_by_pooled = Vec::new();
    for round in 0..options.rounds {
        let mut rates = [0.0; SIDES.len()];
        for turn in 0..SIDES.len() {
            let side = SIDES[(round + turn) % SIDES.len()];
            rates[side as usize] = run(side, options.messages).await?;
        }
        let [ours, held, pooled] = rates;
        held_by_pooled.push(ours / pooled);
        report.round(Round { ours, bare: held, others: vec![("ours/pooled", ours / pooled)] });
    }
    report.condition("database", DB::version(&database.pool).await?);
    report.condition("in_flight", options.in_flight);
    report.condition("rounds", options.rounds);
    report.condition("messages", options.messages);
    report.condition("ratio_to_pooled", median(held_by_pooled.into_iter()));
    report.condition(
        "round_trips_beyond_handler",
        wire::round_trips_beyond_handler::<DB>(&database.url).await?,
    );
    report.condition("version", env!("CARGO_PKG_VERSION"));
    for pool in pools {
        pool.close().await;
    }
    database.drop_now().await;
    Ok(report)
}

/// The work of one side, made before the clock starts and taken by whichever worker is free.
struct Queue(Mutex<std::vec::IntoIter<Work>>);

impl Queue {
    fn new(messages: usize) -> Self {
        Self(Mutex::new((0..messages).map(Work::new).collect::<Vec<_>>().into_iter()))
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
