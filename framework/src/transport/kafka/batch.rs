//! The thread that publishes one transaction a batch. Blocks, as librdkafka does; every call is bounded.
//!
//! What becomes of a batch:
//!
//! | | rows |
//! |---|---|
//! | committed | confirmed |
//! | a row is refused, or cannot be sent | that one is permanent, the others transient: the transaction was aborted |
//! | the commit was not answered, or somebody else goes on under our id | unknown |
//!
//! After the last kind, and whenever an abort fails, the producer is thrown away. The next row makes a new one, whose start
//! ends what the old one left open.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::mpsc;

use super::{
    client::{Answer, ask_topic, locked, log_line},
    outcome,
    transactional::Shared,
    wire,
};
use crate::transport::{Outcome, OutgoingRow};

/// Rows of one transaction. More make it no faster, and an abort costs more.
const BATCH_ROWS_MAX: usize = 2_000;
/// One wait of a blocking call, so that the end of the publisher is noticed in between.
const SLICE: Duration = Duration::from_millis(200);

/// A row on its way to the thread.
pub(super) struct Submitted {
    pub(super) slot: u32,
    pub(super) row: OutgoingRow,
    /// Incidents that the caller knew when it submitted this row.
    pub(super) seen: u64,
}

/// The thread's state.
pub(super) struct Batches {
    shared: Arc<Shared>,
    rows: mpsc::Receiver<Submitted>,
    producer: Option<BaseProducer<Failures>>,
    known: HashSet<String>,
}

/// Why a batch did not commit.
enum Failed {
    /// It certainly did not: the first says why, the second the row that is to blame and why it alone is permanent.
    Aborted(String, Option<(usize, String)>),
    /// Nobody knows.
    Unknown(String),
}

impl Batches {
    pub(super) fn new(shared: Arc<Shared>, rows: mpsc::Receiver<Submitted>) -> Self {
        Self { shared, rows, producer: None, known: HashSet::new() }
    }

    /// Until the publisher is gone.
    pub(super) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_ROWS_MAX);
        while self.rows.blocking_recv_many(&mut batch, BATCH_ROWS_MAX) > 0 {
            if self.shared.stop.load(Ordering::SeqCst) {
                return;
            }
            self.turn_away(&mut batch);
            if batch.is_empty() {
                continue;
            }
            let result = self.publish(&batch);
            self.settle(&batch, result);
            batch.clear();
        }
    }

    /// Rows that were submitted before their caller knew of an incident: they may stand behind a row that was refused.
    fn turn_away(&self, batch: &mut Vec<Submitted>) {
        let incidents = self.shared.incidents.load(Ordering::SeqCst);
        batch.retain(|submitted| {
            let current = submitted.seen >= incidents;
            if !current {
                let why = "the batch before it was not committed".to_owned();
                self.shared.flight.settle(submitted.slot, 0, Outcome::Transient(why));
            }
            current
        });
    }

    fn settle(&mut self, batch: &[Submitted], result: Result<(), Failed>) {
        let settle = |slot, outcome| self.shared.flight.settle(slot, 0, outcome);
        match &result {
            Ok(()) => batch.iter().for_each(|row| settle(row.slot, Outcome::Confirmed)),
            Err(Failed::Aborted(why, culprit)) => {
                for (at, row) in batch.iter().enumerate() {
                    settle(
                        row.slot,
                        match culprit {
                            Some((of, reason)) if *of == at => Outcome::Permanent(reason.clone()),
                            _ => Outcome::Transient(why.clone()),
                        },
                    );
                }
            }
            Err(Failed::Unknown(why)) => {
                batch.iter().for_each(|row| settle(row.slot, Outcome::Unknown(why.clone())));
            }
        }
        if result.is_err() {
            self.shared.incidents.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn publish(&mut self, batch: &[Submitted]) -> Result<(), Failed> {
        let deadline = Instant::now() + self.shared.settings.message_timeout;
        let producer = self.start(deadline).map_err(|why| Failed::Aborted(why, None))?;
        for (at, submitted) in batch.iter().enumerate() {
            self.check(&producer, at, &submitted.row)?;
        }
        let result = self.transact(&producer, batch, deadline);
        if producer.client().fatal_error().is_none() && !matches!(result, Err(Failed::Unknown(_))) {
            self.producer = Some(producer);
        }
        result
    }

    /// The producer, or a new one: its start waits until what another one left open under our id is ended.
    fn start(&mut self, deadline: Instant) -> Result<BaseProducer<Failures>, String> {
        if let Some(producer) = self.producer.take() {
            return Ok(producer);
        }
        let Shared { settings, id, .. } = &*self.shared;
        let made = settings.transactional_config(id).create_with_context(Failures::default());
        let producer: BaseProducer<Failures> =
            made.map_err(|error| settings.config_error(&error).to_string())?;
        self.bounded(deadline, || producer.init_transactions(SLICE))
            .map_err(|error| format!("cannot start a transaction at {}: {error}", settings.brokers))?;
        tracing::info!(transactional_id = id, "publishing in transactions");
        Ok(producer)
    }

    /// Refuses what the broker would refuse, before anything is sent.
    fn check(
        &mut self,
        producer: &BaseProducer<Failures>,
        at: usize,
        row: &OutgoingRow,
    ) -> Result<(), Failed> {
        let topic = row.destination.name();
        let refused = match self.too_large(row) {
            Some(why) => Outcome::Permanent(why),
            None if self.known.contains(topic) => return Ok(()),
            None => match self.ask(producer, topic) {
                None => return Ok(()),
                Some(outcome) => outcome,
            },
        };
        Err(match refused {
            Outcome::Permanent(why) => {
                Failed::Aborted(format!("a row of the same batch was refused: {why}"), Some((at, why)))
            }
            Outcome::Transient(why) | Outcome::Unknown(why) => Failed::Aborted(why, None),
            Outcome::Confirmed => return Ok(()),
        })
    }

    fn too_large(&self, row: &OutgoingRow) -> Option<String> {
        wire::too_large(row, self.shared.settings.message_bytes_max)
    }

    /// Why nothing can be published to this topic, if so.
    fn ask(&mut self, producer: &BaseProducer<Failures>, topic: &str) -> Option<Outcome> {
        let settings = &self.shared.settings;
        let until = Instant::now() + settings.unknown_topic_wait;
        loop {
            match ask_topic(producer.client(), topic, settings.connect_timeout) {
                Answer::Known => {
                    self.known.insert(topic.to_owned());
                    return None;
                }
                Answer::Unknown if Instant::now() < until => {
                    producer.poll(SLICE / 2);
                }
                Answer::Unknown => return Some(outcome::of_refusal(Code::UnknownTopicOrPartition, topic)),
                Answer::Refused(code) => return Some(outcome::of_refusal(code, topic)),
                Answer::Silence(code) => {
                    let why = format!("cannot reach {}: topic {topic:?}: {code}", settings.brokers);
                    return Some(Outcome::Transient(why));
                }
            }
        }
    }

    fn transact(
        &mut self,
        producer: &BaseProducer<Failures>,
        batch: &[Submitted],
        deadline: Instant,
    ) -> Result<(), Failed> {
        producer.context().take();
        // A producer that cannot even begin is of no use any more.
        let begun = producer.begin_transaction();
        begun.map_err(|error| Failed::Unknown(format!("no transaction could be begun: {error}")))?;
        let sent =
            batch.iter().enumerate().try_for_each(|(at, row)| self.send(producer, at, &row.row, deadline));
        let error = match sent.and_then(|()| self.bounded(deadline, || producer.commit_transaction(SLICE))) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let failures = producer.context().take();
        if let KafkaError::Transaction(cause) = &error
            && (cause.is_fatal() || !cause.txn_requires_abort())
        {
            let fenced =
                matches!(cause.code(), Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch);
            if fenced {
                tracing::warn!(
                    transactional_id = self.shared.id,
                    "another relay publishes under our transactional id"
                );
            }
            return Err(Failed::Unknown(format!("the transaction was not answered: {error}")));
        }
        if let Err(error) = self.bounded(Instant::now() + SLICE * 10, || producer.abort_transaction(SLICE)) {
            return Err(Failed::Unknown(format!("the transaction could not be aborted: {error}")));
        }
        let culprit = failures.into_iter().find(|(_, code)| outcome::is_permanent(*code));
        let culprit = culprit.map(|(at, code)| {
            self.known.remove(batch[at].row.destination.name());
            (at, refusal(code, &batch[at].row))
        });
        Err(Failed::Aborted(format!("the transaction was aborted: {error}"), culprit))
    }

    fn send(
        &self,
        producer: &BaseProducer<Failures>,
        at: usize,
        row: &OutgoingRow,
        deadline: Instant,
    ) -> KafkaResult<()> {
        loop {
            let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(row.destination.name(), at);
            record = record.headers(wire::record_headers(row));
            record.payload = row.payload.as_deref();
            record.key = row.aggregateid.as_ref().map(String::as_bytes);
            record.partition = row.wire.as_ref().and_then(|wire| wire.partition);
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) if Instant::now() < deadline => {
                    producer.poll(SLICE);
                }
                Err((error, _)) => {
                    if let Some(code) = error.rdkafka_error_code() {
                        locked(&producer.context().failed).push((at, code));
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Repeats a call that is not through yet, until `deadline` or the end of the publisher.
    fn bounded(&self, deadline: Instant, mut call: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
        loop {
            let error = match call() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = match &error {
                KafkaError::Transaction(cause) => cause.is_retriable(),
                KafkaError::Flush(code) => *code == Code::OperationTimedOut,
                _ => false,
            };
            if !again || Instant::now() >= deadline || self.shared.stop.load(Ordering::SeqCst) {
                return Err(error);
            }
        }
    }
}

fn refusal(code: Code, row: &OutgoingRow) -> String {
    match outcome::of_refusal(code, row.destination.name()) {
        Outcome::Permanent(why) | Outcome::Transient(why) | Outcome::Unknown(why) => why,
        Outcome::Confirmed => String::new(),
    }
}

/// The rows of the batch that failed, by their place in it.
#[derive(Default)]
struct Failures {
    failed: Mutex<Vec<(usize, Code)>>,
}

impl Failures {
    fn take(&self) -> Vec<(usize, Code)> {
        std::mem::take(&mut locked(&self.failed))
    }
}

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log_line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::info!(%error, reason, "Kafka producer");
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, at: usize) {
        if let Err((error, message)) = report {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            tracing::debug!(topic = message.topic(), %error, "a row of a transaction failed");
            locked(&self.failed).push((at, code));
        }
    }
}
