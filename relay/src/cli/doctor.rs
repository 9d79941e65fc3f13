//! `barid-relay doctor`

use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    ConfigFile, Failure, load,
    terminal::{Output, print_json},
};
use crate::{
    doctor::{self, Finding, Level},
    parked::words,
};

/// Shown below `barid-relay doctor --help`.
pub(super) const HELP: &str =
    "It looks at the role and its grants, the schema, replicas and poolers, the sequence, autovacuum, old \
transactions and who holds them, destinations and their arguments, encryption, clocks, and who can read secrets. It changes nothing.

Levels:
  problem  messages are not delivered, or promises are not kept: exit code 8
  warning  it works, and costs something or hides something: exit code 0
  ok       shown with --all, and in JSON";

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    /// Also shows what is as it should be.
    #[arg(long)]
    all: bool,
    /// From when on an open transaction is old: 30s, 15m, 2h or 7d.
    #[arg(long, value_name = "AGE", default_value = "5m", value_parser = words::age)]
    old: Duration,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn doctor(arguments: &Doctor) -> Result<(), Failure> {
    let config = load(&arguments.file.config)?;
    let sources = config.source.iter().map(|(name, source)| doctor::source(name, source, arguments.old));
    let sinks = config.sink.iter().map(|(name, sink)| doctor::sink(&config, name, sink));
    let (sources, sinks) = tokio::join!(join_all(sources), join_all(sinks));
    let file = doctor::file(&arguments.file.config, &config);
    let findings: Vec<Finding> = std::iter::once(file).chain(sources).chain(sinks).flatten().collect();
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    match arguments.output {
        Output::Json => {
            let findings: Vec<Value> = findings.iter().map(Finding::json).collect();
            print_json(&json!({"findings": findings}));
        }
        Output::Table => show(&findings, arguments.all),
    }
    if problems == 0 { Ok(()) } else { Err(Failure::Problems(problems)) }
}

fn show(findings: &[Finding], all: bool) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["SECTION", "CHECK", "LEVEL", "FOUND"]);
    let shown: Vec<_> = findings.iter().filter(|finding| all || finding.level != Level::Ok).collect();
    for finding in &shown {
        table.add_row([&finding.section, finding.check, finding.level.as_str(), &finding.what]);
        if let Some(remedy) = &finding.remedy {
            table.add_row(["", "", "", &format!("-> {remedy}")]);
        }
    }
    if shown.is_empty() {
        println!("nothing to complain about in {} looks; --all shows them", findings.len());
    } else {
        println!("{}", table.trim_fmt());
    }
}
