//! Short-lived questions to the cluster: can it be reached, which topics exist, please make these.
//!
//! Everything here blocks, as librdkafka does: it is called through [`blocking`] only.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::{Client, DefaultClientContext},
    config::RDKafkaLogLevel,
    error::{IsError, KafkaError},
    producer::{BaseProducer, DeliveryResult, Producer, ProducerContext},
    types::RDKafkaErrorCode as Code,
};

use super::{
    settings::{Settings, misconfigured},
    wire::transport_error,
};
use crate::transport::TransportError;

/// One wait of a blocking question, so that a refusal is noticed in between.
const SLICE: Duration = Duration::from_millis(200);

/// Runs what blocks on the blocking threads.
pub(super) async fn blocking<T: Send + 'static>(
    broker: &str,
    work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, TransportError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(TransportError::Lost { broker: broker.to_owned(), cause: error.to_string() }),
    }
}

/// A lock whose holder panicked is still a lock: what is below it is changed in single steps.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes librdkafka's log lines on to `tracing`.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::info!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{text}");
        }
    }
}

/// Remembers the last thing that the client complained about.
pub(super) struct Watch {
    seen: Mutex<Option<(Code, String)>>,
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log_line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            let mut seen = locked(&self.seen);
            let refused = matches!(&*seen, Some((Code::Authentication, _)));
            if !refused {
                *seen = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A connection to ask questions with.
pub(super) struct Probe {
    client: BaseProducer<Watch>,
    settings: Arc<Settings>,
}

impl Probe {
    /// Connects and waits until a broker answered, at most `connect_timeout`.
    pub(super) fn connect(settings: &Arc<Settings>) -> Result<Self, TransportError> {
        let client = settings
            .producer_config()
            .create_with_context(Watch { seen: Mutex::new(None) })
            .map_err(|error| settings.config_error(&error))?;
        let probe = Self { client, settings: Arc::clone(settings) };
        let deadline = Instant::now() + settings.connect_timeout;
        loop {
            if probe.client.client().fetch_cluster_id(SLICE).is_some() {
                return Ok(probe);
            }
            probe.client.poll(Duration::ZERO);
            let error = probe.complaint();
            if Instant::now() >= deadline || matches!(error, TransportError::Refused { .. }) {
                return Err(error);
            }
        }
    }

    fn complaint(&self) -> TransportError {
        let seen = locked(&self.client.context().seen);
        let (code, reason) = match &*seen {
            Some((code, reason)) => (*code, self.settings.redacted(reason)),
            None => {
                (Code::OperationTimedOut, format!("no answer within {:?}", self.settings.connect_timeout))
            }
        };
        transport_error(&self.settings.brokers, code, &reason, false)
    }

    /// Makes the topics that do not exist, and waits until the cluster knows them.
    pub(super) fn declare(
        &self,
        topics: &BTreeSet<String>,
        temporary: bool,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), TransportError> {
        let mut missing = self.missing(topics)?;
        if missing.is_empty() {
            return Ok(());
        }
        self.create(&missing, temporary, runtime)?;
        let deadline = Instant::now() + self.settings.connect_timeout;
        while !missing.is_empty() {
            if Instant::now() >= deadline {
                return Err(TransportError::Timeout {
                    broker: self.settings.brokers.clone(),
                    call: "to make topics known",
                    after: self.settings.connect_timeout,
                });
            }
            self.client.poll(Duration::from_millis(20));
            missing = self.missing(&missing)?;
        }
        Ok(())
    }

    /// Those of `topics` that the cluster does not know, or that have no leader yet.
    pub(super) fn missing(&self, topics: &BTreeSet<String>) -> Result<BTreeSet<String>, TransportError> {
        let mut missing = BTreeSet::new();
        for topic in topics {
            match ask_topic(self.client.client(), topic, self.settings.connect_timeout) {
                Answer::Known => {}
                Answer::Unknown => drop(missing.insert(topic.clone())),
                Answer::Refused(code) | Answer::Silence(code) => {
                    self.client.poll(Duration::ZERO);
                    let reason = format!("topic {topic:?}: {code}");
                    return Err(transport_error(&self.settings.brokers, code, &reason, true));
                }
            }
        }
        Ok(missing)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, TransportError> {
        let client = self.settings.producer_config().create_with_context(DefaultClientContext);
        client.map_err(|error| self.settings.config_error(&error))
    }

    fn admin_options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.settings.connect_timeout))
            .operation_timeout(Some(self.settings.connect_timeout))
    }

    /// Deletes a topic, with what is in it.
    pub(super) fn remove(&self, topic: &str, runtime: &tokio::runtime::Handle) -> Result<(), TransportError> {
        let (admin, brokers) = (self.admin()?, &self.settings.brokers);
        let deleted = runtime.block_on(admin.delete_topics(&[topic], &self.admin_options()));
        let answers = deleted.map_err(|error| {
            let code = error.rdkafka_error_code().unwrap_or(Code::OperationTimedOut);
            transport_error(brokers, code, &error.to_string(), true)
        })?;
        match answers.into_iter().next() {
            None | Some(Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic))) => Ok(()),
            Some(Err((topic, code))) => {
                let reason = format!("topic {topic:?} cannot be deleted: {code}");
                Err(transport_error(brokers, code, &reason, true))
            }
        }
    }

    fn create(
        &self,
        topics: &BTreeSet<String>,
        temporary: bool,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), TransportError> {
        let settings = &self.settings;
        let admin = self.admin()?;
        // One reader, and nothing worth keeping when it is gone.
        let partitions = if temporary { 1 } else { settings.partitions };
        let replicas = settings.replication_factor;
        let new: Vec<_> = topics
            .iter()
            .map(|topic| {
                let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
                if temporary { new.set("retention.ms", "3600000") } else { new }
            })
            .collect();
        let results =
            runtime.block_on(admin.create_topics(&new, &self.admin_options())).map_err(|error| {
                let code = error.rdkafka_error_code().unwrap_or(Code::OperationTimedOut);
                transport_error(&settings.brokers, code, &error.to_string(), true)
            })?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))) => {
                    let reason = format!("topic {topic:?} does not exist, and making it was refused: {code}");
                    return Err(transport_error(&settings.brokers, code, &reason, true));
                }
                Err((topic, code)) => {
                    return Err(misconfigured(
                        &format!("topic {topic:?}"),
                        &format!("the broker did not make it: {code}"),
                        "correct partitions and replication_factor, or make it by hand",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the cluster says about one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It exists and has partitions.
    Known,
    /// It does not exist, or not yet.
    Unknown,
    /// It cannot be used: its name, or the permission.
    Refused(Code),
    /// The cluster did not answer, or not about the topic itself.
    Silence(Code),
}

/// Asks the cluster about one topic. Blocks.
pub(super) fn ask_topic<C: ClientContext>(client: &Client<C>, topic: &str, wait: Duration) -> Answer {
    let metadata = match client.fetch_metadata(Some(topic), wait) {
        Ok(metadata) => metadata,
        Err(error) => return Answer::Silence(error.rdkafka_error_code().unwrap_or(Code::OperationTimedOut)),
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Answer::Unknown;
    };
    match found.error().filter(IsError::is_error).map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Answer::Unknown,
        Some(Code::LeaderNotAvailable) => Answer::Known,
        Some(
            code @ (Code::InvalidTopic | Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed),
        ) => Answer::Refused(code),
        Some(code) => Answer::Silence(code),
        None if found.partitions().is_empty() => Answer::Unknown,
        None => Answer::Known,
    }
}
