//! `handle --batch N`: messages in batches against the same messages one by one, and whether memory stays flat.
//!
//! Three sides take turns: one by one; in batches, with the same handler for one message; in batches, with a handler that takes
//! all of them and writes them with one statement. The ratio is that of the last to the first.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, ensure};
use barid::{
    Batch, BatchPolicy, Bus, Context, Memory, Outgoing, SqlIdempotency, SqlOutbox, SqlUnitOfWork,
    store::schema,
};
use sqlx::{Pool, pool::PoolOptions};
use tokio::task::JoinSet;

use super::{
    Options, OrderPlaced, PlaceOrder, Queue, place_order,
    spent::Spent,
    subject::{Subject, Work},
};
use crate::report::{Report, Round, median, rate};

/// How much memory may grow from the second to the last quarter of the messages, in KiB.
const GROWTH_KIB_MAX: f64 = 6.0 * 1024.0;
const SAMPLES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    OneByOne,
    Together,
    Gathered,
}

const SIDES: [Side; 3] = [Side::OneByOne, Side::Together, Side::Gathered];

async fn place_orders<DB: Subject>(orders: Batch<PlaceOrder>, cx: Context) -> barid::Result<()> {
    let mut db = cx.unit_of_work::<DB>().await?;
    DB::business_of_all(&mut db, &orders).await?;
    for received in orders {
        let cx = received.context().clone();
        let PlaceOrder { order, customer, note } = received.message;
        cx.publish(Outgoing::new(OrderPlaced { order, customer, note }).key(customer))?;
    }
    Ok(())
}

fn bus<DB: Subject>(pool: Pool<DB>, side: Side, batch: usize) -> anyhow::Result<Bus> {
    let bus = Bus::builder("order-desk")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new());
    Ok(match side {
        Side::OneByOne => bus.handler(place_order::<DB>).build()?,
        Side::Together => bus.batch(BatchPolicy::of(batch)).handler(place_order::<DB>).build()?,
        Side::Gathered => bus.batch(BatchPolicy::of(batch)).batch_handler(place_orders::<DB>).build()?,
    })
}

/// Messages handled at the same time by a side: batches of the same number of messages in all, but no fewer than two.
fn workers(options: &Options, side: Side, batch: usize) -> usize {
    let in_flight = options.in_flight as usize;
    if side == Side::OneByOne { in_flight } else { (in_flight / batch).max(2) }
}

async fn work(bus: Bus, queue: Arc<Queue>, batch: usize) -> anyhow::Result<()> {
    loop {
        let deliveries: Vec<_> = (0..batch).map_while(|_| queue.take()).map(|work| work.delivery).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        for result in bus.handle_batch(deliveries).await {
            result.map_err(anyhow::Error::msg)?;
        }
    }
}

pub(super) async fn compare<DB: Subject>(options: &Options, batch: usize) -> anyhow::Result<Report> {
    let database = DB::database().await;
    schema::apply(&DB::any(&database.pool)).await.context("applying the schema")?;
    DB::create_business_table(&database.pool).await?;
    let mut buses = Vec::new();
    for side in SIDES {
        let pool =
            PoolOptions::<DB>::new().max_connections(options.in_flight + 8).connect_lazy(&database.url)?;
        buses.push(bus(pool, side, batch)?);
    }
    let run = async |side: Side, messages: std::ops::Range<usize>| {
        let (count, size) = (messages.len(), if side == Side::OneByOne { 1 } else { batch });
        let queue = Arc::new(Queue::new(messages));
        let mut running = JoinSet::new();
        let before = Spent::until_now(options.server_pid);
        for _ in 0..workers(options, side, batch) {
            running.spawn(work(buses[side as usize].clone(), Arc::clone(&queue), size));
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        anyhow::Ok((count, Spent::until_now(options.server_pid) - before))
    };
    for side in SIDES {
        DB::empty(&database.pool).await?;
        run(side, 0..options.messages.min(40 * options.in_flight as usize)).await?;
    }
    let mut report = Report::new("handle");
    for round in 0..options.rounds {
        DB::empty(&database.pool).await?;
        let mut spent = [(0, Spent::default()); SIDES.len()];
        let (mut first, slices) = (0, options.slices.clamp(1, options.messages.max(1)));
        for slice in 0..slices {
            let messages = options.messages * (slice + 1) / slices - options.messages * slice / slices;
            for turn in 0..SIDES.len() {
                let side = SIDES[(round + slice + turn) % SIDES.len()];
                let (count, slice) = run(side, first..first + messages).await?;
                first += messages;
                let (all, sum) = &mut spent[side as usize];
                (*all, *sum) = (*all + count, *sum + slice);
            }
        }
        let (counts, expected) = (DB::counts(&database.pool).await?, i64::try_from(first)?);
        ensure!(counts == [expected; 3], "{counts:?} rows are left of {expected} messages");
        let [single, together, gathered] = spent.map(|(count, spent)| rate(count, spent.time));
        let micros = |side: Side| {
            let (count, spent) = &spent[side as usize];
            (1e6 / rate(*count, spent.client), 1e6 / rate(*count, spent.server))
        };
        let mut others = vec![("together /s", together), ("together/one by one", together / single)];
        others.push(("gathered client us", micros(Side::Gathered).0));
        others.push(("one by one client us", micros(Side::OneByOne).0));
        if options.server_pid.is_some() {
            others.push(("gathered server us", micros(Side::Gathered).1));
            others.push(("together server us", micros(Side::Together).1));
            others.push(("one by one server us", micros(Side::OneByOne).1));
        }
        report.round(Round { ours: gathered, bare: single, others });
    }
    conditions::<DB>(&mut report, options, batch, &database.pool).await?;
    drop(buses);
    database.drop_now().await;
    Ok(report)
}

/// Messages through batches, sampling the memory of this process. `ours` is the rate of the second half, `bare` of the first.
pub(super) async fn memory<DB: Subject>(options: &Options, batch: usize) -> anyhow::Result<Report> {
    let database = DB::database().await;
    schema::apply(&DB::any(&database.pool)).await.context("applying the schema")?;
    DB::create_business_table(&database.pool).await?;
    let pool = PoolOptions::<DB>::new().max_connections(8).connect_lazy(&database.url)?;
    let bus = bus(pool.clone(), Side::Gathered, batch)?;
    let next = Arc::new(AtomicUsize::new(0));
    let samples: Arc<Mutex<Vec<(f64, Instant)>>> = Arc::default();
    let mut running = JoinSet::new();
    for _ in 0..2 {
        let (bus, next, samples, messages) =
            (bus.clone(), Arc::clone(&next), Arc::clone(&samples), options.messages);
        running.spawn(async move {
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= messages {
                    return anyhow::Ok(());
                }
                let last = messages.min(first + batch);
                let deliveries = (first..last).map(|number| Work::new(number).delivery).collect();
                for result in bus.handle_batch(deliveries).await {
                    result.map_err(anyhow::Error::msg)?;
                }
                if first * SAMPLES / messages != last * SAMPLES / messages {
                    let sample = (resident_kib()?, Instant::now());
                    samples.lock().map_err(|_| anyhow::anyhow!("a sampler panicked"))?.push(sample);
                }
            }
        });
    }
    let began = Instant::now();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let (counts, expected) = (DB::counts(&database.pool).await?, i64::try_from(options.messages)?);
    ensure!(counts == [expected; 3], "{counts:?} rows are left of {expected} messages");
    let samples = std::mem::take(&mut *samples.lock().map_err(|_| anyhow::anyhow!("a sampler panicked"))?);
    ensure!(samples.len() >= 8, "{} samples of the memory are too few: handle more messages", samples.len());
    let quarter =
        |n: usize| samples[n * samples.len() / 4..(n + 1) * samples.len() / 4].iter().map(|(kib, _)| *kib);
    let growth = median(quarter(3)) - median(quarter(1));
    ensure!(growth <= GROWTH_KIB_MAX, "memory grew by {growth:.0} KiB: {:?}", quarter(3).collect::<Vec<_>>());
    let (middle, end) = (samples[samples.len() / 2].1, samples[samples.len() - 1].1);
    let mut report = Report::new("handle");
    report.round(Round {
        ours: rate(options.messages / 2, end - middle),
        bare: rate(options.messages / 2, middle - began),
        others: vec![("growth KiB", growth), ("resident KiB", median(quarter(3)))],
    });
    conditions::<DB>(&mut report, options, batch, &database.pool).await?;
    drop(bus);
    pool.close().await;
    database.drop_now().await;
    Ok(report)
}

async fn conditions<DB: Subject>(
    report: &mut Report,
    options: &Options,
    batch: usize,
    pool: &Pool<DB>,
) -> anyhow::Result<()> {
    report.condition("database", DB::version(pool).await?);
    report.condition("batch", batch);
    report.condition("in_flight", options.in_flight);
    report.condition("batches_in_flight", workers(options, Side::Gathered, batch));
    report.condition("rounds", options.rounds);
    report.condition("messages", options.messages);
    Ok(())
}

/// The resident memory of this process.
fn resident_kib() -> anyhow::Result<f64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("reading the memory of this process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number in VmRSS")?.parse()?)
}
