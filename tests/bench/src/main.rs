//! `barid-bench`: what Barid costs, as a ratio against the same work by hand.
//!
//! Each bench runs both sides in one process, in turn, in rounds whose order rotates: the machine drifts by more than any
//! difference worth knowing, so only ratios within one round mean anything, and the figure is the median of the rounds.
//! Prints a table and, as the last line, one JSON object with `bench`, `ours`, `bare`, `ratio` and the conditions.
//!
//! The servers come from the environment, as in the tests: `tests/run` starts them.

mod bare;
mod drain;
mod handle;
mod report;

use clap::{Parser, Subcommand};

/// Ratios against the same work by hand, interleaved in one run.
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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Args::parse().bench {
        Bench::Handle(options) => handle::run(&options).await?,
        Bench::Drain(options) => drain::run(&options).await?,
    };
    report.print();
    Ok(())
}
