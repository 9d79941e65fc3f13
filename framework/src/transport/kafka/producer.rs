//! The client that sends, and the table of what is in flight on it.
//!
//! librdkafka reports each message on its own thread; [`Flight`] turns the report into one outcome for one token and wakes
//! the publisher. A slot of the table is named by its index and by the generation of the producer that it was sent
//! through, so that a late report of a producer that was thrown away touches nothing.
//!
//! A row that was not confirmed is sent again by whoever submitted it, and no later row of its key may arrive before that.
//! They cannot know until they have taken the outcome: [`Flight::has_failed`] is true until then, and nothing is sent (promise O).

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{DeliveryResult, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::Notify;

use super::{
    client::{locked, log_line},
    outcome,
    settings::Settings,
};
use crate::transport::{Link, Outcome, Token, TransportError};

/// The sending client: one thread of its own that serves delivery reports.
pub(super) type Client = ThreadedProducer<Reports>;

/// A new idempotent producer, of this generation. Generations start at 1.
pub(super) fn produce(
    settings: &Settings,
    flight: &Arc<Flight>,
    generation: u32,
) -> Result<Client, TransportError> {
    settings
        .producer_config()
        .create_with_context(Reports { flight: Arc::clone(flight), generation })
        .map_err(|error| settings.config_error(&error))
}

/// Rows that were taken and whose outcome was not handed out yet. Bounded by the window.
pub(super) struct Flight {
    rows_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
    /// There are outcomes.
    pub(super) settled: Notify,
    /// The publisher's caretaker has something to do.
    pub(super) care: Notify,
    /// The youngest generation whose producer must not be used any more.
    dead: AtomicU32,
    /// The cluster was lost, or a topic is not what it was: what is known about topics is to be asked again.
    forget_topics: AtomicBool,
    /// One of the outcomes is not a confirm. Written under the lock.
    failed: AtomicBool,
    /// No broker can be reached, and nothing was confirmed since.
    lost: AtomicBool,
}

/// From how many rows on it pays to take their outcomes together.
const MANY: usize = 64;

/// See [`Flight::progress`].
pub(super) enum Progress {
    /// No outcome yet.
    None,
    /// Few outcomes, while many rows are in flight.
    Started,
    /// Outcomes worth taking.
    Enough,
}

#[derive(Default)]
struct Inner {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    rows: usize,
    bytes: usize,
    outcomes: Vec<(Token, Outcome)>,
}

struct Slot {
    token: Token,
    bytes: usize,
    /// 0 until it was given to a producer.
    generation: u32,
    /// When it was given to it, or submitted.
    since: Instant,
}

impl Flight {
    pub(super) fn new(rows_max: usize, bytes_max: usize) -> Self {
        Self {
            rows_max: rows_max.max(1),
            bytes_max,
            inner: Mutex::default(),
            settled: Notify::new(),
            care: Notify::new(),
            dead: AtomicU32::new(0),
            forget_topics: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// A slot for a row, or none when the window is full. A row larger than the whole window travels alone.
    pub(super) fn take(&self, token: Token, bytes: usize, generation: u32) -> Option<u32> {
        let mut inner = locked(&self.inner);
        if inner.rows >= self.rows_max || (inner.bytes > 0 && inner.bytes + bytes > self.bytes_max) {
            return None;
        }
        inner.rows += 1;
        inner.bytes += bytes;
        let slot = Some(Slot { token, bytes, generation, since: Instant::now() });
        if let Some(index) = inner.free.pop() {
            inner.slots[index as usize] = slot;
            return Some(index);
        }
        inner.slots.push(slot);
        u32::try_from(inner.slots.len() - 1).ok()
    }

    /// The row in this slot is about to be given to a producer.
    pub(super) fn sending(&self, index: u32, generation: u32) {
        if let Some(Some(slot)) = locked(&self.inner).slots.get_mut(index as usize) {
            slot.generation = generation;
            slot.since = Instant::now();
        }
    }

    /// Since when the row has been in flight that was given to this producer first of all that are.
    pub(super) fn oldest(&self, generation: u32) -> Option<Instant> {
        let inner = locked(&self.inner);
        let sent = inner.slots.iter().flatten().filter(|slot| slot.generation == generation);
        sent.map(|slot| slot.since).min()
    }

    /// The row in this slot was not taken after all.
    pub(super) fn give_back(&self, index: u32) {
        let mut inner = locked(&self.inner);
        if inner.vacate(index, None).is_some() {
            inner.rows -= 1;
        }
    }

    /// The outcome of the row in this slot.
    pub(super) fn settle(&self, index: u32, generation: u32, outcome: Outcome) {
        let mut inner = locked(&self.inner);
        let Some(token) = inner.vacate(index, Some(generation)) else { return };
        let first = inner.outcomes.is_empty();
        if outcome != Outcome::Confirmed {
            self.failed.store(true, Ordering::SeqCst);
        } else if self.lost.load(Ordering::Relaxed) {
            self.lost.store(false, Ordering::Relaxed);
        }
        inner.outcomes.push((token, outcome));
        drop(inner);
        if first {
            self.settled.notify_one();
        }
    }

    /// Everything that was sent up to this generation and never reported.
    pub(super) fn abandon(&self, generation: u32, outcome: &Outcome) {
        let open: Vec<(u32, u32)> = {
            let inner = locked(&self.inner);
            let sent = |slot: &Slot| (1..=generation).contains(&slot.generation);
            let all = (0..).zip(&inner.slots);
            all.filter_map(|(index, slot)| {
                slot.as_ref().filter(|slot| sent(slot)).map(|slot| (index, slot.generation))
            })
            .collect()
        };
        for (index, generation) in open {
            self.settle(index, generation, outcome.clone());
        }
    }

    /// Everything that has no outcome yet.
    pub(super) fn abandon_all(&self, outcome: &Outcome) {
        let open: Vec<(u32, u32)> = {
            let inner = locked(&self.inner);
            (0..)
                .zip(&inner.slots)
                .filter_map(|(index, slot)| Some((index, slot.as_ref()?.generation)))
                .collect()
        };
        for (index, generation) in open {
            self.settle(index, generation, outcome.clone());
        }
    }

    /// How many outcomes there are, compared with what is still to come.
    pub(super) fn progress(&self) -> Progress {
        let inner = locked(&self.inner);
        let (outcomes, open) = (inner.outcomes.len(), inner.rows - inner.outcomes.len());
        match outcomes {
            0 => Progress::None,
            1..MANY if open >= MANY => Progress::Started,
            _ => Progress::Enough,
        }
    }

    /// All outcomes so far; frees their places in the window.
    pub(super) fn collect(&self) -> Vec<(Token, Outcome)> {
        let mut inner = locked(&self.inner);
        inner.rows -= inner.outcomes.len();
        self.failed.store(false, Ordering::SeqCst);
        mem::take(&mut inner.outcomes)
    }

    /// Whether there is an outcome to collect that is not a confirm: see the module.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Whether nothing is in flight and nothing waits to be collected.
    pub(super) fn is_empty(&self) -> bool {
        locked(&self.inner).rows == 0
    }

    /// The producer of this generation is broken.
    pub(super) fn kill(&self, generation: u32) {
        self.dead.fetch_max(generation, Ordering::SeqCst);
        self.care.notify_one();
    }

    /// Whether the producer of this generation is broken.
    pub(super) fn is_dead(&self, generation: u32) -> bool {
        self.dead.load(Ordering::SeqCst) >= generation
    }

    /// How it stands with the cluster.
    pub(super) fn link(&self) -> Link {
        if self.lost.load(Ordering::Relaxed) { Link::Down } else { Link::Up }
    }

    /// What is known about topics is to be asked again.
    pub(super) fn forget_topics(&self) {
        self.forget_topics.store(true, Ordering::SeqCst);
    }

    /// Whether topics are to be asked for again; true once.
    pub(super) fn forgets_topics(&self) -> bool {
        self.forget_topics.load(Ordering::Relaxed) && self.forget_topics.swap(false, Ordering::SeqCst)
    }
}

impl Inner {
    fn vacate(&mut self, index: u32, generation: Option<u32>) -> Option<Token> {
        let place = self.slots.get_mut(index as usize)?;
        let slot = place.take_if(|slot| generation.is_none_or(|generation| slot.generation == generation))?;
        self.free.push(index);
        self.bytes -= slot.bytes;
        Some(slot.token)
    }
}

/// What librdkafka calls back: one report a message, and errors of the client as a whole.
pub(super) struct Reports {
    flight: Arc<Flight>,
    generation: u32,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log_line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(code) if outcome::breaks_producer(code) => {
                tracing::warn!(%error, reason, "Kafka producer is broken, making a new one");
                self.flight.kill(self.generation);
            }
            Some(Code::AllBrokersDown) => {
                tracing::warn!(%error, reason, "Kafka cluster lost");
                self.flight.lost.store(true, Ordering::Relaxed);
                self.flight.forget_topics();
            }
            _ => tracing::info!(%error, reason, "Kafka producer"),
        }
    }
}

impl ProducerContext for Reports {
    /// The slot's index.
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, index: usize) {
        let outcome = match report {
            Ok(_) => Outcome::Confirmed,
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                // librdkafka would go on with the rows behind one that it gave up.
                if outcome::breaks_producer(code) || outcome::leaves_a_gap(code) {
                    self.flight.kill(self.generation);
                }
                if outcome::forgets_topic(code) {
                    self.flight.forget_topics();
                }
                outcome::of_delivery(code, message.topic())
            }
        };
        if let Ok(index) = u32::try_from(index) {
            self.flight.settle(index, self.generation, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_bounded_by_rows_until_outcomes_are_collected() {
        let flight = Flight::new(2, 100);
        let first = flight.take(Token(1), 10, 1).unwrap();
        flight.take(Token(2), 10, 1).unwrap();
        assert_eq!(flight.take(Token(3), 10, 1), None);
        flight.settle(first, 1, Outcome::Confirmed);
        assert_eq!(flight.take(Token(3), 10, 1), None, "the outcome was not collected yet");
        assert_eq!(flight.collect(), [(Token(1), Outcome::Confirmed)]);
        assert_eq!(flight.take(Token(3), 10, 1), Some(first));
    }

    #[test]
    fn a_failure_is_remembered_until_it_was_told() {
        let flight = Flight::new(10, 100);
        let rows = [1, 2].map(|token| flight.take(Token(token), 1, 1).unwrap());
        flight.settle(rows[0], 1, Outcome::Confirmed);
        assert!(!flight.has_failed());
        flight.settle(rows[1], 1, Outcome::Unknown("gone".to_owned()));
        assert!(flight.has_failed());
        assert_eq!(flight.collect().len(), 2);
        assert!(!flight.has_failed());
    }

    #[test]
    fn the_window_is_bounded_by_bytes_and_a_giant_travels_alone() {
        let flight = Flight::new(10, 100);
        let giant = flight.take(Token(1), 1_000, 1).unwrap();
        assert_eq!(flight.take(Token(2), 1, 1), None);
        flight.give_back(giant);
        assert!(flight.take(Token(2), 100, 1).is_some());
        assert_eq!(flight.take(Token(3), 1, 1), None);
    }

    #[test]
    fn a_late_report_of_an_old_producer_touches_nothing() {
        let flight = Flight::new(10, 100);
        let slot = flight.take(Token(1), 1, 1).unwrap();
        flight.abandon(1, &Outcome::Unknown("gone".to_owned()));
        assert_eq!(flight.take(Token(2), 1, 2), Some(slot));
        flight.settle(slot, 1, Outcome::Confirmed);
        assert_eq!(flight.collect(), [(Token(1), Outcome::Unknown("gone".to_owned()))]);
        assert!(!flight.is_empty());
    }

    #[test]
    fn rows_that_were_never_sent_are_not_abandoned() {
        let flight = Flight::new(10, 100);
        let held = flight.take(Token(1), 1, 0).unwrap();
        flight.abandon(7, &Outcome::Unknown("gone".to_owned()));
        assert!(flight.collect().is_empty());
        flight.sending(held, 8);
        flight.settle(held, 8, Outcome::Confirmed);
        assert_eq!(flight.collect().len(), 1);
    }
}
