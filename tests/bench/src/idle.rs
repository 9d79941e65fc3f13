//! `idle`: what a relay asks of its database while nothing happens, counted on the wire.
//!
//! A proxy stands between the relay and the server and counts round trips; an idle relay's queries take one each. The bare
//! side is a loop that looks at the outbox once a second.

use std::time::{Duration, Instant};

use barid::store::{AnyPool, schema};
use barid_relay::source;
use barid_tests::{Proxy, TestDatabase};
use clap::{Args, ValueEnum};

use crate::{
    report::{Report, Round, rate},
    running::Running,
    target::Target,
};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// The database of the outbox.
    #[arg(long, value_enum, default_value_t = Database::Postgres)]
    database: Database,
    /// Seconds of each round.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before the first round: polling slows down step by step.
    #[arg(long, default_value_t = 10.0)]
    settle: f64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Database {
    Postgres,
    Mariadb,
}

/// Runs it and says what came out.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    match options.database {
        Database::Postgres => {
            let database = TestDatabase::postgres().await;
            let report = measure(options, &database.url).await;
            database.drop_now().await;
            report
        }
        Database::Mariadb => {
            let database = TestDatabase::mariadb().await;
            let report = measure(options, &database.url).await;
            database.drop_now().await;
            report
        }
    }
}

async fn measure(options: &Options, url: &str) -> anyhow::Result<Report> {
    let (proxy, url) = Proxy::in_front_of(url).await;
    let pool = AnyPool::connect(&url, 4).await?;
    schema::apply(&pool).await?;
    let target = &options.target;
    let sink = target.sink(target.transport()?);
    let relay = Running::start(source::open::source("bench", &pool), sink, target.default_order())?;
    tokio::time::sleep(Duration::from_secs_f64(options.settle)).await;
    let mut report = Report::new("idle").unit("queries/s");
    for _ in 0..options.rounds {
        proxy.reset();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
        let asked = usize::try_from(proxy.round_trips())?;
        report.round(Round { ours: rate(asked, began.elapsed()), bare: 1.0, others: Vec::new() });
    }
    relay.stop().await?;
    report.condition("database", format!("{:?}", options.database).to_lowercase());
    report.condition("seconds", options.seconds);
    report.condition("rounds", options.rounds);
    report.condition("wanted", "ours <= 1");
    Ok(report)
}
