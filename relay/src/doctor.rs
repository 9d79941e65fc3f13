//! What is wrong around a relay, or will be: found by asking the databases and the brokers, before somebody notices it otherwise.
//!
//! `barid-relay doctor` shows it. A [`Finding`] names what was looked at, what was found, and the remedy. Nothing is changed
//! anywhere: destinations are declared again as they should be, which RabbitMQ answers without making anything when they exist.

use std::time::Duration;

use barid::transport::TransportError;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    archive::After,
    config::{Config, SinkConfig, SinkKind, SourceConfig},
    setup::{self, SetupError},
    sink::Topology,
    source::{SourceError, open},
};

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) mod clock;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It works, and costs something or hides something.
    Warning,
    /// Messages are not delivered, or promises are not kept.
    Problem,
}

impl Level {
    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one look at something has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `source.orders` or `sink.rabbit`.
    pub section: String,
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do; none when nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    /// As programs read it.
    #[must_use]
    pub fn json(&self) -> Value {
        let Self { section, check, level, what, remedy } = self;
        json!({"section": section, "check": check, "level": level.as_str(), "what": what, "remedy": remedy})
    }
}

/// Collects what is found about one section.
#[derive(Debug)]
pub struct Report {
    section: String,
    findings: Vec<Finding>,
}

impl Report {
    /// Nothing found yet.
    #[must_use]
    pub fn new(section: String) -> Self {
        Self { section, findings: Vec::new() }
    }

    /// It is as it should be.
    pub fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(check, Level::Ok, what.into(), None);
    }

    /// It works, and costs something or hides something.
    pub fn warning(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Warning, what.into(), Some(remedy.into()));
    }

    /// Messages are not delivered, or promises are not kept.
    pub fn problem(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Problem, what.into(), Some(remedy.into()));
    }

    /// Something failed whose text says what to do.
    pub fn failed(&mut self, check: &'static str, error: &(dyn std::error::Error + 'static)) {
        self.add(check, Level::Problem, error.to_string(), None);
    }

    fn add(&mut self, check: &'static str, level: Level, what: String, remedy: Option<String>) {
        self.findings.push(Finding { section: self.section.clone(), check, level, what, remedy });
    }

    /// What was found, in the order of the looks.
    #[must_use]
    pub fn findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// How long a broker may take for one question.
const BROKER_WITHIN: Duration = Duration::from_secs(15);

/// Looks at a source. Transactions count as old from `old` on.
pub async fn source(name: &str, config: &SourceConfig, old: Duration) -> Vec<Finding> {
    let mut report = Report::new(format!("source.{name}"));
    let pool = match setup::database_with(name, config, 2).await {
        Ok(pool) => pool,
        Err(error @ SetupError::Schema { .. }) => {
            report.failed("schema", &error);
            return report.findings();
        }
        Err(error) => {
            report.failed("connection", &error);
            return report.findings();
        }
    };
    report.ok("connection", pool.place());
    report.ok("schema", "every migration that this program knows is applied, unchanged");
    reading(name, config, &pool, &mut report).await;
    let archives = config.after() != After::Delete;
    if let Err(error) = open::examine(name, &pool, &config.options(), archives, old, &mut report).await {
        report.failed("examination", &error);
    }
    report.findings()
}

/// Whether a relay could read there: no replica, no pool in transaction mode, no sequence that cannot be relied on.
async fn reading(name: &str, config: &SourceConfig, pool: &barid::store::AnyPool, report: &mut Report) {
    let source = match open::source_with(name, pool, &config.options()) {
        Ok(source) => source,
        Err(error) => return report.failed("reading", &error),
    };
    match source.reader().await {
        Ok(_) => report.ok("reading", "a relay can read there: no replica, no pool in transaction mode"),
        Err(error @ SourceError::Replica { .. }) => report.failed("replica", &error),
        Err(error @ SourceError::Pooler { .. }) => report.failed("pooler", &error),
        Err(error) => report.failed("reading", &error),
    }
}

/// Looks at a sink.
pub async fn sink(config: &Config, name: &str, sink: &SinkConfig) -> Vec<Finding> {
    let mut report = Report::new(format!("sink.{name}"));
    let transport = match setup::transport(config, name, sink).await {
        Ok(transport) => transport,
        Err(error) => {
            report.failed("connection", &error);
            return report.findings();
        }
    };
    let destinations = setup::destinations(config, name);
    let bounded = |call| async { timeout(BROKER_WITHIN, call).await.unwrap_or_else(|_| Err(silent(name))) };
    match bounded(transport.missing(&destinations)).await {
        Err(error) => {
            report.failed("connection", &error);
            return report.findings();
        }
        Ok(missing) if missing.is_empty() => {
            report.ok("connection", "the broker lets the relay in");
            let what = format!("{} destinations of routes exist", destinations.len());
            report.ok("destinations", what);
        }
        Ok(missing) => {
            report.ok("connection", "the broker lets the relay in");
            for what in missing {
                report.problem(
                    "destinations",
                    what,
                    "or have the relay make it: topology = \"declare\" in the sink",
                );
            }
            return encryption(sink, report);
        }
    }
    if sink.kind == SinkKind::Rabbitmq && sink.topology != Topology::None {
        for destination in &destinations {
            // They exist, so nothing is made; what is otherwise than it would be made is refused.
            let made = timeout(BROKER_WITHIN, transport.make(std::slice::from_ref(destination))).await;
            match made.unwrap_or_else(|_| Err(silent(name))) {
                Ok(()) => {
                    report.ok("arguments", format!("{destination} is as this program would declare it"))
                }
                Err(error) => report.warning(
                    "arguments",
                    format!("{destination} is not as this program would declare it: {error}"),
                    "see whether its limits and its type lose messages: a queue that drops its head does",
                ),
            }
        }
    }
    encryption(sink, report)
}

fn silent(name: &str) -> TransportError {
    TransportError::Timeout {
        broker: format!("the broker of sink {name}"),
        call: "the doctor",
        after: BROKER_WITHIN,
    }
}

/// Whether what goes to the broker can be read on the way.
fn encryption(sink: &SinkConfig, mut report: Report) -> Vec<Finding> {
    let plain = "others on the way can read messages and passwords";
    match sink.kind {
        SinkKind::Sql => {}
        SinkKind::Kafka if sink.encrypts_and_logs_in().0 => report.ok("tls", "encrypted"),
        SinkKind::Kafka => {
            let brokers = sink.brokers.clone().unwrap_or_default();
            if brokers.split(',').all(is_local) {
                report.ok("tls", "not encrypted, on this machine");
            } else {
                report.warning(
                    "tls",
                    format!("not encrypted: {plain}"),
                    "set security = \"ssl\" or \"sasl_ssl\"",
                );
            }
        }
        SinkKind::Rabbitmq => match setup::sink_host(sink) {
            Some((scheme, _)) if scheme == "amqps" => report.ok("tls", "encrypted"),
            Some((_, host)) if !is_local(&host) => {
                report.warning("tls", format!("not encrypted: {plain}"), "write amqps:// in its url");
            }
            _ => report.ok("tls", "not encrypted, on this machine"),
        },
    }
    report.findings()
}

/// Whether an address leads to this machine.
#[must_use]
pub fn is_local(address: &str) -> bool {
    let host = address.trim();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    host == "localhost"
        || host.starts_with('/')
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_several_names() {
        for address in [
            "localhost",
            "localhost:9092",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5672",
            "::1",
            "/run/postgresql",
        ] {
            assert!(is_local(address), "{address}");
        }
        for address in ["db", "db:5432", "10.0.0.1", "localhost.example:1", "[2001:db8::1]:1", ""] {
            assert!(!is_local(address), "{address}");
        }
    }
}
