//! `[sink.NAME]`: what each key means.

use std::{collections::BTreeMap, path::PathBuf};

use barid::limits::{WINDOW_BYTES_MAX, WINDOW_ROWS, WINDOW_ROWS_MAX};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use super::secret;
use crate::{lane::Window, sink::Topology};

/// Rows in flight on Kafka: its client sends in batches per partition, and fewer leave it waiting.
const KAFKA_WINDOW_ROWS_MAX: usize = 10_000;

/// What a sink publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// RabbitMQ.
    Rabbitmq,
    /// Kafka.
    Kafka,
    /// Queues in a SQL database.
    Sql,
}

impl SinkKind {
    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Kafka => "kafka",
            Self::Sql => "sql",
        }
    }
}

/// How a Kafka cluster is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Neither encryption nor login.
    Plaintext,
    /// Encryption.
    Ssl,
    /// Login without encryption: the password can be read on the way, unless the mechanism is a SCRAM one.
    SaslPlaintext,
    /// Encryption and login.
    SaslSsl,
}

/// `[sink.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// `rabbitmq`, `kafka` or `sql`.
    pub kind: SinkKind,
    /// RabbitMQ: `amqp://` or `amqps://`. SQL: as for a source.
    #[serde(default, deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// A file that holds the address instead.
    pub url_file: Option<PathBuf>,
    /// Kafka: `host:port`, separated by commas.
    pub brokers: Option<String>,
    /// RabbitMQ and Kafka: `check` publishes nothing before the destinations exist that routes name one by one, `declare` makes
    /// them, `none` does neither. Default: `check`.
    #[serde(default)]
    pub topology: Topology,
    /// RabbitMQ: rows that may be published and not yet confirmed, at least. How many are needed up to `window_rows_max` the
    /// relay finds out by itself. Default: 256, beyond which classic queues gain nothing.
    pub window_rows_min: Option<usize>,
    /// The same, at most. Default: 4,000, for quorum queues need some thousands to amortise their fsyncs; on Kafka 10,000, on
    /// SQL 256.
    pub window_rows_max: Option<usize>,
    /// Bytes of their payloads. Default: 32 MiB.
    pub window_bytes_max: Option<usize>,
    /// RabbitMQ and Kafka: largest payload that is sent, in bytes; a larger one is parked. Default: 16 MiB, on Kafka 1,000,000.
    pub body_bytes_max: Option<usize>,
    /// RabbitMQ and Kafka: how long a published row may wait for its confirm before nobody knows whether it arrived, and it is
    /// sent again. Must be shorter than RabbitMQ's heartbeat, and than the lease. Default: 10,000, or two thirds of a lease that
    /// is shorter than 15,000.
    pub confirm_timeout_ms: Option<u64>,
    /// RabbitMQ: seconds between heartbeats. Default: 20.
    pub heartbeat_s: Option<u16>,
    /// RabbitMQ: channels; a key has one of them. Default: 4.
    pub channels: Option<u16>,
    /// RabbitMQ and Kafka: certificates of authorities, in PEM: trusted beside the public ones on RabbitMQ, alone on Kafka.
    pub ca_file: Option<PathBuf>,
    /// RabbitMQ and Kafka: the relay's own certificate, in PEM. On RabbitMQ it is the login when the URL names no user.
    pub client_certificate_file: Option<PathBuf>,
    /// The key of that certificate, in PEM, without a password.
    pub client_key_file: Option<PathBuf>,
    /// Kafka: `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`. Default: `plaintext`.
    pub security: Option<Security>,
    /// Kafka: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Default: `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// Kafka: who logs in.
    pub username: Option<String>,
    /// Kafka: the password, from the environment.
    #[serde(default, deserialize_with = "secret")]
    pub password: Option<SecretString>,
    /// A file that holds the password instead.
    pub password_file: Option<PathBuf>,
    /// Kafka: the id under which `strict` routes publish their transactions; whoever publishes under it last shuts the others
    /// out. One an outbox. Default: `barid-SOURCE-SINK`; set it when outboxes of the same name publish to one cluster.
    pub transactional_id: Option<String>,
    /// Kafka: other properties of librdkafka, such as `client.rack`. Their values are treated as secrets.
    #[serde(default, deserialize_with = "secrets")]
    pub properties: BTreeMap<String, SecretString>,
}

impl SinkConfig {
    /// How much may be in flight.
    #[must_use]
    pub fn window(&self) -> Window {
        let rows = match self.kind {
            SinkKind::Rabbitmq => WINDOW_ROWS_MAX,
            SinkKind::Kafka => KAFKA_WINDOW_ROWS_MAX,
            SinkKind::Sql => WINDOW_ROWS,
        };
        Window {
            rows_max: self.window_rows_max.unwrap_or(rows),
            bytes_max: self.window_bytes_max.unwrap_or(WINDOW_BYTES_MAX),
        }
    }

    /// Whether a Kafka cluster is spoken to with encryption, and with a login.
    #[must_use]
    pub fn encrypts_and_logs_in(&self) -> (bool, bool) {
        let security = self.security.unwrap_or(Security::Plaintext);
        (
            matches!(security, Security::Ssl | Security::SaslSsl),
            matches!(security, Security::SaslPlaintext | Security::SaslSsl),
        )
    }

    /// Keys that are set and mean something to some kinds only, with those kinds.
    pub(super) fn special(&self) -> Vec<(&'static str, &'static [SinkKind])> {
        use SinkKind::{Kafka, Rabbitmq, Sql};
        let all: [(&str, bool, &[SinkKind]); 19] = [
            ("url", self.url.is_some(), &[Rabbitmq, Sql]),
            ("url_file", self.url_file.is_some(), &[Rabbitmq, Sql]),
            ("brokers", self.brokers.is_some(), &[Kafka]),
            ("topology", self.topology != Topology::Check, &[Rabbitmq, Kafka]),
            ("window_rows_min", self.window_rows_min.is_some(), &[Rabbitmq]),
            ("body_bytes_max", self.body_bytes_max.is_some(), &[Rabbitmq, Kafka]),
            ("confirm_timeout_ms", self.confirm_timeout_ms.is_some(), &[Rabbitmq, Kafka]),
            ("heartbeat_s", self.heartbeat_s.is_some(), &[Rabbitmq]),
            ("channels", self.channels.is_some(), &[Rabbitmq]),
            ("ca_file", self.ca_file.is_some(), &[Rabbitmq, Kafka]),
            ("client_certificate_file", self.client_certificate_file.is_some(), &[Rabbitmq, Kafka]),
            ("client_key_file", self.client_key_file.is_some(), &[Rabbitmq, Kafka]),
            ("security", self.security.is_some(), &[Kafka]),
            ("sasl_mechanism", self.sasl_mechanism.is_some(), &[Kafka]),
            ("username", self.username.is_some(), &[Kafka]),
            ("password", self.password.is_some(), &[Kafka]),
            ("password_file", self.password_file.is_some(), &[Kafka]),
            ("transactional_id", self.transactional_id.is_some(), &[Kafka]),
            ("properties", !self.properties.is_empty(), &[Kafka]),
        ];
        all.into_iter().filter(|(_, set, _)| *set).map(|(key, _, kinds)| (key, kinds)).collect()
    }
}

fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let plain = BTreeMap::<String, String>::deserialize(from)?;
    Ok(plain.into_iter().map(|(name, value)| (name, value.into())).collect())
}
