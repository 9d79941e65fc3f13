//! `barid-bench`: what Barid costs, as a ratio against the same work by hand.
//!
//! Each bench runs both sides in one run, in turn, in rounds whose order rotates: the machine drifts by more than any
//! difference worth knowing, so only ratios within one round mean anything, and the figure is the median of the rounds.
//! Prints a table and, as the last line, one JSON object with `bench`, `ours`, `bare`, `ratio` and the conditions.
//!
//! The servers come from the environment, as in the tests: `tests/run` starts them. README.md beside this folder says how to run
//! each and what its figures mean.

mod backlog;
mod bare;
mod distributed;
mod drain;
mod handle;
mod held_snapshot;
mod idle;
mod latency;
mod outbox;
mod report;
mod running;
mod target;
mod wal;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Ratios against the same work by hand, interleaved in one run.
///
/// Prints a table and, as the last line, one JSON object: `ratio` is the median of the ratios of the rounds, `wanted` says what it
/// should be. Needs the servers of the tests: BARID_TEST_POSTGRES_URL, BARID_TEST_MARIADB_URL, BARID_TEST_AMQP_URL,
/// BARID_TEST_KAFKA. Build with --release.
#[derive(Debug, Parser)]
#[command(name = "barid-bench", version)]
struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Unit of work, outbox and idempotency against the same SQL by hand in five statements.
    Handle(handle::Options),
    /// A backlog through the relay against a loop by hand that reads, publishes and deletes.
    Drain(drain::Options),
    /// From COMMIT to the broker's confirm at a steady rate, against a loop by hand that is notified and publishes.
    Latency(latency::Options),
    /// What a read of the relay costs while an old snapshot is held: the last reads against the first.
    HeldSnapshot(held_snapshot::Options),
    /// The first rows of a backlog of millions against a backlog of only those, and the relay's memory.
    Backlog(backlog::Options),
    /// Bytes of write-ahead log of an event against a bare INSERT and DELETE.
    Wal(wal::Options),
    /// A transaction over two databases against the same statements with PREPARE and COMMIT PREPARED by hand.
    Distributed(distributed::Options),
    /// Queries a second of a relay that has nothing to do.
    Idle(idle::Options),
    /// The relay itself, for the benches that look at its process.
    #[command(hide = true)]
    Relay {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let report = match Args::parse().bench {
        Bench::Handle(options) => handle::run(&options).await?,
        Bench::Drain(options) => drain::run(&options).await?,
        Bench::Latency(options) => latency::run(&options).await?,
        Bench::HeldSnapshot(options) => held_snapshot::run(&options).await?,
        Bench::Backlog(options) => backlog::run(&options).await?,
        Bench::Wal(options) => wal::run(&options).await?,
        Bench::Distributed(options) => distributed::run(&options).await?,
        Bench::Idle(options) => idle::run(&options).await?,
        Bench::Relay { config } => {
            let arguments = ["barid-relay".into(), "run".into(), "--config".into(), OsString::from(config)];
            return Ok(Box::pin(barid_relay::cli::main(arguments)).await);
        }
    };
    report.print();
    Ok(ExitCode::SUCCESS)
}
