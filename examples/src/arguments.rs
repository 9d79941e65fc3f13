//! What every program of the story can be told.

use clap::{Args, value_parser};

/// The options that the programs share.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// How many orders are placed.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u64).range(100..=1_000_000))]
    pub messages: u64,
    /// Keeps the tables, and says where they are.
    #[arg(long)]
    pub keep: bool,
}

/// Errors to standard error; `RUST_LOG` says what else. Failing handlers are a part of the story and not worth a line each.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
