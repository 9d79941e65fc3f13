//! The configuration: one TOML file, every key overridable from the environment.
//!
//! `BARID_RELAY__SOURCE__MAIN__URL` overrides `url` in `[source.main]`, `BARID_RELAY__ROUTE__0__SINK` overrides `sink` in
//! the first `[[route]]`. Names are compared without regard to case, with `_` for `-` and `.`. Secrets come from the
//! environment or from files (`url_file`), are held in [`SecretString`], and are never shown.
//!
//! Every problem is reported at once, with file and line, or with the name of the variable.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use barid::{
    doorbell::Address,
    limits::{CONFIRM_TIMEOUT, RECORDS_KEPT_FOR},
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use crate::{
    archive::After,
    lane::{Order, Poison},
    lease::default_instance,
    relay::Settings,
    source::{identifier::Identifier, open::Options},
};

mod admin;
mod check;
mod foreign;
mod format;
mod keys;
mod read;
mod show;
mod sink;
#[cfg(test)]
mod tests;

pub use self::{
    admin::{AdminConfig, LISTEN, TOKEN_CHARS_MIN},
    format::FormatConfig,
    read::{ConfigError, read},
    sink::{Security, SinkConfig, SinkKind},
};

/// Everything that a relay process is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[source.NAME]`: the outboxes to empty. Each is worked on independently.
    #[serde(default)]
    pub source: BTreeMap<String, SourceConfig>,
    /// `[sink.NAME]`: where messages go.
    #[serde(default)]
    pub sink: BTreeMap<String, SinkConfig>,
    /// `[resource.NAME]`: databases that take part in distributed transactions, under the names that the application gave them. Only
    /// `barid-relay tx` looks at them.
    #[serde(default)]
    pub resource: BTreeMap<String, ResourceConfig>,
    /// `[format.NAME]`: forms of messages that routes ask for.
    #[serde(default)]
    pub format: BTreeMap<String, FormatConfig>,
    /// `[[route]]`: which destination goes to which sink. The first that matches counts.
    #[serde(default)]
    pub route: Vec<RouteConfig>,
    /// `[relay]`: bounds and times.
    #[serde(default)]
    pub relay: RelayConfig,
    /// `[admin]`: health, metrics and the API over HTTP; none without the section.
    pub admin: Option<AdminConfig>,
}

/// `[source.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// `postgres://`, `mysql://` or `sqlite:` address of the database that has the table `outbox`.
    #[serde(default, deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// A file that holds the address instead.
    pub url_file: Option<PathBuf>,
    /// Rows that one read asks for. Default: 1,000.
    #[serde(default = "batch_rows")]
    pub batch_rows: usize,
    /// Shortest pause after a read that found nothing; grows to an eighth of the time in which nothing came. Default: 1.
    #[serde(default = "poll_min_ms")]
    pub poll_min_ms: u64,
    /// Longest pause between reads: how late a row may be noticed after a long silence when no doorbell is rung. Default: 1,500.
    #[serde(default = "idle_poll_ms")]
    pub idle_poll_ms: u64,
    /// Where to listen for the doorbells of programs on this machine: `unix:/run/barid/orders.sock`, or `udp:127.0.0.1:7117`.
    #[serde(default, deserialize_with = "address")]
    pub doorbell: Option<Address>,
    /// PostgreSQL: the channel on which programs that ring no doorbell notify after their commits.
    #[serde(default, deserialize_with = "identifier")]
    pub listen: Option<Identifier>,
    /// PostgreSQL: a table of somebody else instead of `outbox`, with the same columns except `xid`.
    #[serde(default, deserialize_with = "identifier")]
    pub table: Option<Identifier>,
    /// What becomes of a row that was published: `delete`, or `archive`, which moves it into `relay_archive`. Default: `delete`.
    #[serde(default)]
    pub after: AfterName,
    /// For how long an archived row is kept, in seconds. Default: 604,800, a week, which is how long a bus remembers what it has
    /// handled.
    pub archive_for_s: Option<u64>,
    /// PostgreSQL: `debezium` is Debezium's table, called `outboxevent` unless `table` says otherwise.
    pub preset: Option<String>,
    /// PostgreSQL: columns of `table` that are called otherwise than the outbox's, by the outbox's names: `payload = "body"`.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// PostgreSQL: columns of `table` that the outbox has not, separated by commas; they travel as headers of their names.
    pub extra_columns: Option<String>,
    /// Where the keys about the table are, for messages about it.
    #[serde(skip)]
    pub(crate) places: BTreeMap<String, String>,
}

/// `after` in `[source.NAME]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterName {
    /// Published rows are deleted.
    #[default]
    Delete,
    /// Published rows are moved into `relay_archive`.
    Archive,
}

impl AfterName {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
        }
    }
}

/// `[resource.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    /// `postgres://` or `mysql://` address of the database, with the role that the application has there.
    #[serde(default, deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// A file that holds the address instead.
    pub url_file: Option<PathBuf>,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// `queue:NAME` or `topic:NAME`, where `*` stands for any characters; `*` alone is everything.
    pub destination: String,
    /// The name of a sink.
    pub sink: String,
    /// `strict`, `pipelined` or `none`. Default: `pipelined` on Kafka, `strict` on the others. `strict` on Kafka publishes in
    /// transactions.
    pub order: Option<Order>,
    /// What becomes of a row that can never be delivered: `block_key` parks it and the later rows of its key, `skip` parks it
    /// alone, `halt` stops the relay. Default: `block_key`.
    #[serde(default)]
    pub on_poison: Poison,
    /// The form in which messages are sent: the name of a `[format.NAME]`, or `debezium` or `cloudevents` with their defaults.
    /// Default: `barid`, the transports' own.
    pub format: Option<String>,
}

/// `[relay]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Rows between reading and deleting, for each source. Default: 6,000; more where a window is larger.
    pub buffer_rows_max: usize,
    /// Bytes of their payloads. Default: 64 MiB.
    pub buffer_bytes_max: usize,
    /// Rows of one key between reading and deleting, while the key waits or is strict; its later rows stay in the outbox until it
    /// flows. At most a quarter of the buffer. Default: 500.
    pub key_rows_max: usize,
    /// Rows that one DELETE takes. Default: 1,000.
    pub delete_rows_max: usize,
    /// How long a confirmed row waits for others to be deleted with. Default: 5.
    pub delete_wait_ms: u64,
    /// Shortest pause before a row is sent again. Default: 10.
    pub retry_min_ms: u64,
    /// Longest pause before a row is sent again. Default: 5,000.
    pub retry_max_ms: u64,
    /// How long stopping waits for the last answers, and for the last deletes. Default: 10,000.
    pub drain_ms: u64,
    /// How long another relay waits for this one when it cannot see whether it lives. Without an answer from the database this
    /// one stops publishing after two thirds of it. Default: 15,000.
    pub lease_ms: u64,
    /// A transaction of the source's database that has been open for so long is named in the log (PostgreSQL, with the right
    /// `pg_monitor`): until it ends no deleted row leaves its page. Default: 900,000, a quarter of an hour.
    pub old_transaction_ms: u64,
    /// What people see as the owner of a source, in logs and in `relay_source`. Default: host, process and some random
    /// characters.
    pub instance: String,
}

impl Default for RelayConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            buffer_rows_max: settings.buffer_rows_max,
            buffer_bytes_max: settings.buffer_bytes_max,
            key_rows_max: settings.key_rows_max,
            delete_rows_max: settings.delete_rows_max,
            delete_wait_ms: millis(settings.delete_wait),
            retry_min_ms: millis(settings.retry_min),
            retry_max_ms: millis(settings.retry_max),
            drain_ms: millis(settings.drain),
            lease_ms: millis(settings.lease),
            old_transaction_ms: millis(settings.old_transaction),
            instance: default_instance().to_owned(),
        }
    }
}

impl SourceConfig {
    /// How to read.
    #[must_use]
    pub fn options(&self) -> Options {
        Options { listen: self.listen.clone(), table: self.mapping() }
    }

    /// What becomes of a row that was published.
    #[must_use]
    pub fn after(&self) -> After {
        match self.after {
            AfterName::Delete => After::Delete,
            AfterName::Archive => {
                After::Archive { keep: self.archive_for_s.map_or(RECORDS_KEPT_FOR, Duration::from_secs) }
            }
        }
    }
}

impl Config {
    /// The bounds and times for one source.
    #[must_use]
    pub fn settings(&self, source: &SourceConfig) -> Settings {
        let relay = &self.relay;
        let window = self.sink.values().map(|sink| sink.window().rows_max).max().unwrap_or(0);
        Settings {
            // A buffer that is smaller than a window could never fill it.
            buffer_rows_max: relay.buffer_rows_max.max(window + source.batch_rows),
            buffer_bytes_max: relay.buffer_bytes_max,
            key_rows_max: relay.key_rows_max,
            batch_rows: source.batch_rows,
            poll_min: Duration::from_millis(source.poll_min_ms),
            idle_poll: Duration::from_millis(source.idle_poll_ms),
            after: source.after(),
            delete_rows_max: relay.delete_rows_max,
            delete_wait: Duration::from_millis(relay.delete_wait_ms),
            retry_min: Duration::from_millis(relay.retry_min_ms),
            retry_max: Duration::from_millis(relay.retry_max_ms),
            drain: Duration::from_millis(relay.drain_ms),
            lease: Duration::from_millis(relay.lease_ms),
            old_transaction: Duration::from_millis(relay.old_transaction_ms),
        }
    }

    /// How long a row may wait for its confirm on this sink: what is asked for, or a default that fits the lease.
    #[must_use]
    pub fn confirm_timeout(&self, sink: &SinkConfig) -> Duration {
        // Where the lease is short, what its owner may publish for: two thirds of it.
        let fits = CONFIRM_TIMEOUT.min(Duration::from_millis(self.relay.lease_ms) * 2 / 3);
        sink.confirm_timeout_ms.map_or(fits, Duration::from_millis)
    }

    /// The order of a route: its own, or what keeps the order of a key on its sink at the least cost.
    #[must_use]
    pub fn order(&self, route: &RouteConfig) -> Order {
        let pipelined = self.sink.get(&route.sink).is_some_and(|sink| sink.kind == SinkKind::Kafka);
        route.order.unwrap_or(if pipelined { Order::Pipelined } else { Order::Strict })
    }
}

fn batch_rows() -> usize {
    Settings::default().batch_rows
}

fn poll_min_ms() -> u64 {
    millis(Settings::default().poll_min)
}

fn idle_poll_ms() -> u64 {
    millis(Settings::default().idle_poll)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Some(String::deserialize(from)?.into()))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn identifier<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Identifier>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}
