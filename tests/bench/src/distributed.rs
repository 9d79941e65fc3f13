//! `distributed`: a transaction over two PostgreSQL databases, against the same statements with PREPARE TRANSACTION and COMMIT
//! PREPARED by hand.
//!
//! A transaction is one row in each of two databases. *Ours* is a `DistributedUnitOfWork` whose home is one of them. By hand
//! (the ratio is against this one) both databases are prepared and then told to commit: eight statements, one after the other, on
//! connections that are kept; a crash in between leaves them for somebody to clean up. *At once* is the same with both databases at
//! the same time. What the decision costs is the difference between two more kinds of hand: *undecided*, where home only commits
//! after the other one is prepared, and *decided*, which writes the same rows of a log besides.

mod by_hand;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use barid::{
    distributed::{
        Coordinator, DistributedUnitOfWork, Resource, ResourceId, Settings, SqlDecisionLog, SqlHome,
        SqlResource,
    },
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase};
use clap::Args;
use sqlx::{PgPool, Postgres, postgres::PgPoolOptions};
use tokio::task::JoinSet;

use crate::report::{Report, Round, rate};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Transactions at the same time, on every side. By hand each needs two of the server's max_prepared_transactions.
    #[arg(long, default_value_t = 8)]
    in_flight: u32,
    /// Rounds; each runs every side once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Transactions of each side in each round.
    #[arg(long, default_value_t = 2000)]
    transactions: i64,
    /// Slices of a round: the sides take turns after each, so that what disturbs the machine disturbs all of them.
    #[arg(long, default_value_t = 10)]
    slices: i64,
    /// Milliseconds that a round trip to the server takes longer, on every side.
    #[arg(long, default_value_t = 0)]
    network_ms: u64,
}

/// One of the sides that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Prepared,
    AtOnce,
    Undecided,
    Decided,
}

const SIDES: [Side; 5] = [Side::Ours, Side::Prepared, Side::AtOnce, Side::Undecided, Side::Decided];

/// The business statement in both databases.
const INSERT: &str = "INSERT INTO effect (id, note) VALUES ($1, $2)";
const NOTE: &str = "one row in each of two databases";

/// What the workers of a side share.
struct World {
    /// Pools on home and on the other database: one of each for every side, so that no side inherits another's connections.
    pools: Vec<[PgPool; 2]>,
    coordinator: Coordinator,
    log: Arc<SqlDecisionLog<Postgres>>,
    other: Arc<SqlResource<Postgres>>,
    next: AtomicI64,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let databases = [TestDatabase::postgres().await, TestDatabase::postgres().await];
    for database in &databases {
        schema::apply(&AnyPool::from(database.pool.clone())).await.context("applying the schema")?;
        sqlx::query("CREATE TABLE effect (id BIGINT PRIMARY KEY, note TEXT NOT NULL)")
            .execute(&database.pool)
            .await?;
    }
    sqlx::raw_sql(by_hand::LOG).execute(&databases[0].pool).await?;
    let proxies = match options.network_ms {
        0 => None,
        latency => {
            let mut proxies = Vec::new();
            for database in &databases {
                let (proxy, url) = Proxy::in_front_of(&database.url).await;
                proxy.add_latency(Duration::from_millis(latency));
                proxies.push((proxy, url));
            }
            Some(proxies)
        }
    };
    let url = |at: usize| proxies.as_ref().map_or(&databases[at].url, |proxies| &proxies[at].1).clone();
    let world = Arc::new(World::connect(options, [url(0), url(1)]).await?);

    for side in SIDES {
        world.run(side, options.in_flight, 20 * i64::from(options.in_flight)).await?;
    }
    let mut report = Report::new("distributed");
    let mut decision = Vec::new();
    for round in 0..options.rounds {
        world.empty(&databases).await?;
        let mut spent = [(0, Duration::ZERO); SIDES.len()];
        let slices = options.slices.clamp(1, options.transactions.max(1));
        for slice in 0..slices {
            let count = options.transactions * (slice + 1) / slices - options.transactions * slice / slices;
            for turn in 0..SIDES.len() {
                let side = SIDES[(round + usize::try_from(slice)? + turn) % SIDES.len()];
                let took = world.run(side, options.in_flight, count).await?;
                let (all, sum) = &mut spent[side as usize];
                (*all, *sum) = (*all + usize::try_from(count)?, *sum + took);
            }
        }
        let expected = options.transactions * i64::try_from(SIDES.len())?;
        for database in &databases {
            let found: i64 =
                sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&database.pool).await?;
            ensure!(found == expected, "{found} effects of {expected} transactions");
        }
        let [ours, prepared, at_once, undecided, decided] = spent.map(|(count, took)| rate(count, took));
        let micros = 1e6 / decided - 1e6 / undecided;
        decision.push((micros, 1e6 / decided));
        report.round(Round {
            ours,
            bare: prepared,
            others: vec![
                ("ours/at-once", ours / at_once),
                ("ours/undecided", ours / undecided),
                ("ours/decided", ours / decided),
                ("decision us", micros),
            ],
        });
    }
    let (micros, whole) = crate::report::medians_of(&decision);
    report.note(format!(
        "the decision row: {micros:.0} us of the {whole:.0} us that a transaction by hand with a decision takes, {} at a time",
        options.in_flight
    ));
    report.condition("in_flight", options.in_flight);
    report.condition("transactions", options.transactions);
    report.condition("network_ms", options.network_ms);
    report.condition("wanted", "ratio >= 0.90");
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&databases[0].pool).await?;
    report.condition("server", format!("PostgreSQL {version}"));
    world.coordinator.drain().await;
    world.close().await;
    Ok(report)
}

impl World {
    async fn connect(options: &Options, urls: [String; 2]) -> anyhow::Result<Self> {
        let pool =
            |url: &String| PgPoolOptions::new().max_connections(options.in_flight + 8).connect_lazy(url);
        let mut pools = Vec::new();
        for _ in SIDES {
            pools.push([pool(&urls[0])?, pool(&urls[1])?]);
        }
        // Home units and the log's own writes need connections at the same time.
        let home = PgPoolOptions::new().max_connections(2 * options.in_flight + 8).connect_lazy(&urls[0])?;
        let log = Arc::new(SqlDecisionLog::new(home.clone()));
        let other = SqlResource::new(ResourceId::new("other")?, pools[0][1].clone());
        pools[0][0] = home;
        let resources = [Arc::clone(&other) as Arc<dyn Resource>];
        let coordinator = Coordinator::connect(Arc::clone(&log) as _, resources, Settings::default()).await?;
        Ok(Self { pools, coordinator, log, other, next: AtomicI64::new(0) })
    }

    /// So many transactions of a side, so many at a time.
    async fn run(self: &Arc<Self>, side: Side, in_flight: u32, count: i64) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let end = self.next.load(Ordering::Relaxed) + count;
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let world = Arc::clone(self);
            workers.spawn(async move { world.work(side, end).await });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        self.next.store(end, Ordering::Relaxed);
        Ok(began.elapsed())
    }

    fn take(&self, end: i64) -> Option<i64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (id < end).then_some(id)
    }

    async fn work(&self, side: Side, end: i64) -> anyhow::Result<()> {
        if side == Side::Ours {
            while let Some(id) = self.take(end) {
                self.ours(id).await?;
            }
            return Ok(());
        }
        let [home, other] = &self.pools[side as usize];
        let (mut home, mut other) = (home.acquire().await?, other.acquire().await?);
        while let Some(id) = self.take(end) {
            match side {
                Side::Prepared => by_hand::prepared(&mut home, &mut other, id).await?,
                Side::AtOnce => by_hand::at_once(&mut home, &mut other, id).await?,
                Side::Undecided => by_hand::undecided(&mut home, &mut other, id).await?,
                Side::Ours | Side::Decided => by_hand::decided(&mut home, &mut other, id).await?,
            }
        }
        Ok(())
    }

    async fn ours(&self, id: i64) -> anyhow::Result<()> {
        let mut transaction = DistributedUnitOfWork::new(&self.coordinator);
        let (home, other) = (SqlHome::new(&self.log), self.other.branch());
        transaction.register_home(home.clone())?;
        transaction.register_participant("other", other.clone())?;
        transaction.begin().await?;
        let insert = || sqlx::query(INSERT).bind(id).bind(NOTE);
        let said = |error: barid::Error| anyhow::anyhow!("{error}");
        insert().execute(&mut *home.connection().await.map_err(said)?).await?;
        insert().execute(&mut *other.connection().await.map_err(said)?).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Rounds begin with empty tables.
    async fn empty(&self, databases: &[TestDatabase<Postgres>; 2]) -> anyhow::Result<()> {
        self.coordinator.drain().await;
        sqlx::raw_sql("TRUNCATE dtx_branch, dtx_event, dtx_transaction, log_transaction, log_branch")
            .execute(&databases[0].pool)
            .await?;
        for database in databases {
            sqlx::raw_sql("TRUNCATE effect, dtx_marker").execute(&database.pool).await?;
        }
        Ok(())
    }

    async fn close(&self) {
        for pool in self.pools.iter().flatten() {
            pool.close().await;
        }
    }
}
