//! `barid-relay version` and `barid-relay completions`

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use super::{
    Cli,
    terminal::{Output, print_json},
};

/// What this program can read from and publish to.
const FEATURES: [(&str, bool); 6] = [
    ("postgres", cfg!(feature = "postgres")),
    ("mysql", cfg!(feature = "mysql")),
    ("sqlite", cfg!(feature = "sqlite")),
    ("rabbitmq", cfg!(feature = "rabbitmq")),
    ("kafka", cfg!(feature = "kafka")),
    ("kafka-ssl", cfg!(feature = "kafka-ssl")),
];

pub(super) fn version(output: Output) {
    let features: Vec<&str> = FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Output::Table => println!("barid-relay {version} ({})", features.join(", ")),
        Output::Json => print_json(&json!({"version": version, "features": features})),
    }
}

/// A script for a shell, which completes commands and options.
pub(super) fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "barid-relay", &mut std::io::stdout());
}
