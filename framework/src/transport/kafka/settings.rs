//! What a user may choose about Kafka, and the librdkafka configuration that follows from it.
//!
//! Everything that our promises rest on (acks, idempotence, who commits offsets) is written out here and cannot be
//! overridden: [`Settings::property`] passes on any other property of librdkafka. Values of passed-on properties never
//! reach a log or an error text.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rdkafka::{ClientConfig, error::KafkaError};
use secrecy::{ExposeSecret, SecretString};

use crate::{limits, transport::TransportError};

/// How to reach a Kafka cluster and how to behave towards it.
///
/// ```
/// use barid::transport::kafka::Settings;
/// let settings = Settings::new("kafka-1:9092,kafka-2:9092")
///     .ssl(Some("/etc/kafka/ca.pem".as_ref()))
///     .sasl("SCRAM-SHA-512", "orders", "secret");
/// assert!(!format!("{settings:?}").contains("secret"));
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bootstrap addresses, `host:port`, separated by commas.
    pub brokers: String,
    /// Rows that one publisher may have in flight or not yet collected. Default: 10,000: the client sends in batches per
    /// partition, and a window below some thousands leaves it waiting for `linger`.
    pub window_rows_max: usize,
    /// Bytes of bodies that one publisher may have in flight. Default: [`limits::WINDOW_BYTES_MAX`].
    pub window_bytes_max: usize,
    /// How long a row may be in flight. Then the producer is given up with all that it has, whose outcomes are unknown: rows that
    /// timed out one by one (`message.timeout.ms`) would let later rows of their key arrive first. Keep it below the relay's
    /// lease. Default: [`limits::CONFIRM_TIMEOUT`].
    pub message_timeout: Duration,
    /// How long the client waits for more rows before it sends a batch (`linger.ms`). Default: 5 ms.
    pub linger: Duration,
    /// Largest message with its key and headers, in bytes (`message.max.bytes`). A larger row is refused as permanent before
    /// it is sent. Batches are no larger than this, and never larger than 1,000,000: a topic whose `max.message.bytes` is
    /// smaller refuses whole batches, so set this to the smallest of them. Default: 1,000,000.
    pub message_bytes_max: usize,
    /// How long a topic that the broker does not know is asked for again before its rows are refused: a topic that was just
    /// made is not known to every broker at once. Default: 1 s.
    pub unknown_topic_wait: Duration,
    /// How long connecting, or one question about topics, may take. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long closing waits: a publisher for rows in flight, a consumer for its last commit. Default: 10 s.
    pub close_timeout: Duration,
    /// How often handled positions are committed. A crash repeats at most what was handled since. Default: 500 ms.
    pub commit_interval: Duration,
    /// Messages that a consumer keeps behind a message of the same key that is not settled yet. When they are full, it stops
    /// fetching. Default: 1,000.
    pub held_rows_max: usize,
    /// Messages of one partition that may be handled out of order behind one that is not; bounds what a crash repeats.
    /// Default: 10,000.
    pub open_offsets_max: usize,
    /// Partitions of a topic made by `declare`; -1 leaves it to the broker. Default: 6.
    pub partitions: i32,
    /// Replicas of a topic made by `declare`; -1 leaves it to the broker. Default: -1.
    pub replication_factor: i32,
    /// Publishes in Kafka transactions, one a batch, under this id. A batch arrives as a whole or not at all for consumers that
    /// read committed records only, so that many rows of a key can be in flight and none overtakes another even when one is
    /// refused. Whoever starts to publish under an id ends the batch of the one before, and shuts it out: one id an outbox, the
    /// same after a restart. Default: none, no transactions.
    pub transactional_id: Option<String>,
    /// Other properties of librdkafka, by its names. See [`Settings::property`].
    pub properties: BTreeMap<String, SecretString>,
}

/// Properties that would break a promise, or that have a field of their own, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("acks", "every row is confirmed by all in-sync replicas; remove it"),
    ("request.required.acks", "every row is confirmed by all in-sync replicas; remove it"),
    ("enable.idempotence", "the idempotent producer keeps the order of a key; remove it"),
    ("enable.gapless.guarantee", "it is experimental and purges rows; remove it"),
    ("transactional.id", "use the field transactional_id"),
    ("transaction.timeout.ms", "use the field message_timeout"),
    ("enable.auto.commit", "offsets are committed after the message was handled; remove it"),
    ("auto.commit.enable", "offsets are committed after the message was handled; remove it"),
    ("auto.commit.interval.ms", "use the field commit_interval"),
    ("enable.auto.offset.store", "offsets are committed after the message was handled; remove it"),
    ("auto.offset.reset", "anything but \"earliest\" loses messages; remove it"),
    ("allow.auto.create.topics", "an unknown topic must be an error; declare the inbox instead"),
    ("group.id", "the group is the queue's name; remove it"),
    ("bootstrap.servers", "use the field brokers"),
    ("metadata.broker.list", "use the field brokers"),
    ("message.timeout.ms", "use the field message_timeout"),
    ("delivery.timeout.ms", "use the field message_timeout"),
    ("linger.ms", "use the field linger"),
    ("queue.buffering.max.ms", "use the field linger"),
    ("queue.buffering.max.messages", "use the field window_rows_max"),
    ("queue.buffering.max.kbytes", "use the field window_bytes_max"),
    ("message.max.bytes", "use the field message_bytes_max"),
];

impl Settings {
    /// The defaults, for a cluster at `brokers` (`host:port`, separated by commas).
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            window_rows_max: 10_000,
            window_bytes_max: limits::WINDOW_BYTES_MAX,
            message_timeout: limits::CONFIRM_TIMEOUT,
            linger: Duration::from_millis(5),
            message_bytes_max: 1_000_000,
            unknown_topic_wait: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            commit_interval: Duration::from_millis(500),
            held_rows_max: 1_000,
            open_offsets_max: 10_000,
            partitions: 6,
            replication_factor: -1,
            transactional_id: None,
            properties: BTreeMap::new(),
        }
    }

    /// Sets a property of librdkafka, for instance `security.protocol`. Checked by `Kafka::new`.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), SecretString::from(value.into()));
        self
    }

    /// Logs in as `username`. `mechanism` is `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; the SCRAM ones, and `PLAIN` with
    /// [`Settings::ssl`], need the feature `kafka-ssl`.
    #[must_use]
    pub fn sasl(self, mechanism: &str, username: impl Into<String>, password: impl Into<String>) -> Self {
        let encrypted = self.protocol().ends_with("SSL");
        self.property("security.protocol", if encrypted { "SASL_SSL" } else { "SASL_PLAINTEXT" })
            .property("sasl.mechanism", mechanism)
            .property("sasl.username", username)
            .property("sasl.password", password)
    }

    /// Encrypts the connection, and trusts only what the authorities in `ca_file` (PEM) signed; without a file, those that the
    /// machine trusts. The certificate of a broker must name its host. Needs the feature `kafka-ssl`.
    #[must_use]
    pub fn ssl(self, ca_file: Option<&Path>) -> Self {
        let sasl = self.protocol().starts_with("SASL");
        let settings = self.property("security.protocol", if sasl { "SASL_SSL" } else { "SSL" });
        match ca_file {
            Some(file) => settings.property("ssl.ca.location", file.display().to_string()),
            None => settings,
        }
    }

    /// Shows our own certificate (PEM, with those it was signed with) to brokers that ask for one; with [`Settings::ssl`].
    #[must_use]
    pub fn client_certificate(self, certificate: &Path, key: &Path) -> Self {
        self.property("ssl.certificate.location", certificate.display().to_string())
            .property("ssl.key.location", key.display().to_string())
    }

    fn protocol(&self) -> &str {
        self.properties.get("security.protocol").map_or("PLAINTEXT", |protocol| protocol.expose_secret())
    }

    /// Checks everything that can be checked without the broker.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        if self.brokers.split(',').all(|one| one.trim().is_empty()) {
            return Err(misconfigured(
                "Kafka setting \"brokers\"",
                "it names no broker",
                "set it to host:port",
            ));
        }
        for (name, remedy) in REFUSED {
            if self.properties.contains_key(*name) {
                let what = format!("Kafka property {name:?}");
                return Err(misconfigured(&what, "it is decided by Barid", remedy));
            }
        }
        for name in ["max.in.flight", "max.in.flight.requests.per.connection"] {
            let few = |value: &SecretString| ["1", "2", "3", "4", "5"].contains(&value.expose_secret());
            if self.properties.get(name).is_some_and(|value| !few(value)) {
                let what = format!("Kafka property {name:?}");
                let cause = "the idempotent producer keeps the order of a key up to 5";
                return Err(misconfigured(&what, cause, "set it to 1 to 5, or remove it"));
            }
        }
        for config in [self.producer_config(), self.consumer_config("check")] {
            config.create_native_config().map_err(|error| self.config_error(&error))?;
        }
        Ok(())
    }

    /// What a client could not be made from, without any value of a property.
    pub(super) fn config_error(&self, error: &KafkaError) -> TransportError {
        match error {
            KafkaError::ClientConfig(_, text, name, _) => {
                let known = !text.to_ascii_lowercase().contains("no such configuration property");
                let (cause, remedy) = if known {
                    ("its value is not allowed", "look it up in librdkafka's CONFIGURATION.md")
                } else {
                    ("librdkafka has no property of this name, or was built without it", "correct the name")
                };
                misconfigured(&format!("Kafka property {name:?}"), cause, remedy)
            }
            other => misconfigured(
                "Kafka client",
                &self.redacted(&other.to_string()),
                "correct the properties; TLS and SCRAM need the feature \"kafka-ssl\"",
            ),
        }
    }

    /// `text` without the value of any passed-on property.
    pub(super) fn redacted(&self, text: &str) -> String {
        let secrets = self.properties.iter().filter(|(name, _)| is_secret(name));
        secrets.fold(text.to_owned(), |text, (_, value)| match value.expose_secret() {
            "" => text,
            secret => text.replace(secret, "***"),
        })
    }

    fn base_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "barid")
            .set("allow.auto.create.topics", "false")
            // After an outage the cluster is found again within seconds.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("message.max.bytes", self.message_bytes_max.to_string());
        config
    }

    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value.expose_secret());
        }
        config
    }

    /// One idempotent producer whose own limits lie above our window, so that the window decides.
    pub(super) fn producer_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", self.linger.as_millis().to_string())
            .set("batch.size", self.message_bytes_max.min(1_000_000).to_string())
            .set("compression.type", "lz4")
            // The partitioner of the Java clients, so that a key lands where they would put it.
            .set("partitioner", "murmur2_random")
            // A row that timed out by itself would let later rows of its key pass: see `caretaker`.
            .set("message.timeout.ms", "0")
            .set("queue.buffering.max.messages", (self.window_rows_max * 2 + 1_000).to_string())
            .set("queue.buffering.max.kbytes", (self.window_bytes_max / 512 + 65_536).to_string());
        self.with_properties(config)
    }

    /// The same, with transactions.
    pub(super) fn transactional_config(&self, id: &str) -> ClientConfig {
        let mut config = self.producer_config();
        config
            .set("transactional.id", id)
            // A batch is committed whole or not at all, so no row can pass another one here.
            .set("message.timeout.ms", self.message_timeout.as_millis().max(1).to_string())
            // What a crash leaves open holds consumers up for this long, unless somebody goes on under the id.
            .set("transaction.timeout.ms", self.message_timeout.as_millis().max(1_000).to_string());
        config
    }

    /// A consumer that commits only what it is told to.
    pub(super) fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // Only partitions that really move are taken away in a rebalance.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "3000")
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.queue.backoff.ms", "20");
        self.with_properties(config)
    }
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", "key", "pem", "jaas", "token", "oauthbearer.config"]
        .iter()
        .any(|part| name.contains(part))
}

pub(super) fn misconfigured(what: &str, cause: &str, remedy: &str) -> TransportError {
    TransportError::Misconfigured {
        what: what.to_owned(),
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &Settings) -> String {
        settings.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_accepted() {
        Settings::new("localhost:9092").check().unwrap();
    }

    #[test]
    fn what_would_break_a_promise_is_refused_by_name() {
        for (name, _) in REFUSED {
            let text = check(&Settings::new("localhost:9092").property(*name, "1"));
            assert!(text.contains(&format!("{name:?}")), "{text}");
        }
    }

    #[test]
    fn fewer_requests_in_flight_are_allowed_and_more_than_keep_the_order_are_not() {
        let with = |value: &str| {
            Settings::new("localhost:9092").property("max.in.flight.requests.per.connection", value)
        };
        with("1").check().unwrap();
        let text = check(&with("6"));
        assert!(text.contains("max.in.flight"), "{text}");
    }

    #[test]
    fn an_unknown_property_is_named_and_no_value_is_shown() {
        let text = check(&Settings::new("localhost:9092").property("sasl.pasword", "hunter2"));
        assert!(text.contains("\"sasl.pasword\"") && text.contains("no property"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let text = check(&Settings::new("localhost:9092").property("security.protocol", "hunter2"));
        assert!(text.contains("\"security.protocol\"") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn an_address_is_needed() {
        assert!(check(&Settings::new(" ,")).contains("brokers"));
    }

    #[test]
    fn secrets_are_never_shown() {
        let settings = Settings::new("localhost:9092").property("sasl.password", "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.redacted("refused hunter2"), "refused ***");
    }
}
