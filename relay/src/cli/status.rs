//! `barid-relay status`: how the sources and the sinks are, asked of the databases and the brokers themselves.

use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    ConfigFile, Failure, exit, load,
    terminal::{Output, print_json, print_table},
};
use crate::{
    config::{Config, SinkConfig, SourceConfig},
    setup::{self, SetupError},
    source::open,
    survey::{self, Survey},
};

/// Shown below `barid-relay status --help`.
pub(super) const HELP: &str = "It needs no running relay. Exit codes: 0 when every database and every broker answered, whatever they \
said; 2 for wrong arguments; else that of the worst: 3 the configuration is wrong, 4 cannot be reached or refuses, 5 the schema is \
missing or another one.";

/// How long a broker may take to answer.
const BROKER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this [source.NAME], and no sinks.
    #[arg(long)]
    source: Option<String>,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

type Asked<T> = Vec<(String, Result<T, SetupError>)>;

pub(super) async fn status(status: &Status) -> Result<(), Failure> {
    let config = load(&status.file.config)?;
    let only = |name: &str| status.source.as_deref().is_none_or(|only| only == name);
    if let Some(name) = status.source.as_ref().filter(|name| !config.source.contains_key(*name)) {
        let names = config.source.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Failure::Usage(format!("there is no [source.{name}] (sources: {names})")));
    }
    let sources = config.source.iter().filter(|(name, _)| only(name));
    let sources = sources.map(async |(name, source)| (name.clone(), look(name, source).await));
    let sinks = config.sink.iter().filter(|_| status.source.is_none());
    let sinks = sinks.map(async |(name, sink)| (name.clone(), works(&config, name, sink).await));
    let (sources, sinks) = tokio::join!(join_all(sources), join_all(sinks));
    match status.output {
        Output::Json => print_json(&as_json(&config, &sources, &sinks)),
        Output::Table => show(&config, &sources, &sinks),
    }
    let errors = sources.iter().filter_map(|(_, asked)| asked.as_ref().err());
    let errors: Vec<_> = errors.chain(sinks.iter().filter_map(|(_, asked)| asked.as_ref().err())).collect();
    match errors.iter().map(|error| exit::setup(error)).max() {
        Some(worst) => Err(Failure::Checks(errors.len(), worst)),
        None => Ok(()),
    }
}

async fn look(name: &str, source: &SourceConfig) -> Result<Survey, SetupError> {
    let pool = setup::database_with(name, source, 1).await?;
    Ok(open::survey(name, &pool, &source.options()).await?)
}

async fn works(config: &Config, name: &str, sink: &SinkConfig) -> Result<(), SetupError> {
    let transport = setup::transport(config, name, sink).await?;
    let section = format!("[sink.{name}]");
    let asked = timeout(BROKER_WITHIN, setup::sink_works(config, name, transport)).await;
    let cause = match asked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(cause)) => cause,
        Err(_) => barid::transport::TransportError::Timeout {
            broker: format!("the broker of sink {name}"),
            call: "whether it can be published to",
            after: BROKER_WITHIN,
        },
    };
    Err(SetupError::Transport { section, cause })
}

fn as_json(config: &Config, sources: &Asked<Survey>, sinks: &Asked<()>) -> Value {
    let sources = sources.iter().map(|(name, asked)| match asked {
        Ok(survey) => survey::json(name, survey),
        Err(error) => json!({"source": name, "error": error.to_string()}),
    });
    let sinks = sinks.iter().map(|(name, asked)| {
        let error = asked.as_ref().err().map(ToString::to_string);
        json!({"sink": name, "kind": config.sink[name].kind.as_str(), "ok": error.is_none(), "error": error})
    });
    json!({"sources": sources.collect::<Vec<_>>(), "sinks": sinks.collect::<Vec<_>>()})
}

fn show(config: &Config, sources: &Asked<Survey>, sinks: &Asked<()>) {
    let header = [
        "SOURCE",
        "LEASE",
        "OWNER",
        "EPOCH",
        "PENDING",
        "OLDEST",
        "POISON",
        "BEHIND",
        "SKIPPED",
        "BLOCKED KEYS",
        "OLDEST TRANSACTION",
    ];
    let rows = sources.iter().map(|(name, asked)| match asked {
        Ok(survey) => cells(name, survey),
        Err(_) => vec![name.clone(), "FAILED".to_owned()],
    });
    print_table(&header, rows);
    if !sinks.is_empty() {
        println!();
        let rows = sinks.iter().map(|(name, asked)| {
            let state = if asked.is_ok() { "ok" } else { "FAILED" };
            vec![name.clone(), config.sink[name].kind.as_str().to_owned(), state.to_owned()]
        });
        print_table(&["SINK", "KIND", "STATE"], rows);
    }
    let errors = sources.iter().filter_map(|(_, asked)| asked.as_ref().err());
    for error in errors.chain(sinks.iter().filter_map(|(_, asked)| asked.as_ref().err())) {
        eprintln!("{error}");
    }
}

fn cells(name: &str, survey: &Survey) -> Vec<String> {
    let Survey { pending, estimated, oldest, parked, blocked_keys, oldest_transaction, holder } = survey;
    let lease = match survey::lease_state(holder) {
        "held" => format!("held, {} left", age(holder.left)),
        state => state.to_owned(),
    };
    let about = if *estimated { "about " } else { "" };
    let or_none = |time: &Option<Duration>| time.map_or_else(|| "-".to_owned(), age);
    vec![
        name.to_owned(),
        lease,
        holder.owner.clone(),
        holder.epoch.to_string(),
        format!("{about}{pending}"),
        or_none(oldest),
        parked.poison.to_string(),
        parked.behind.to_string(),
        parked.skipped.to_string(),
        blocked_keys.to_string(),
        or_none(oldest_transaction),
    ]
}

/// The two largest units.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match () {
        () if days > 0 => format!("{days}d {hours}h"),
        () if hours > 0 => format!("{hours}h {minutes}m"),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (7_260, "2h 1m"),
            (90_000, "1d 1h"),
            (8_640_000, "100d 0h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }
}
