//! The publishing half: rows in, one outcome a row out, nobody waits for a batch.
//!
//! [`Publisher::submit`] gives a row to the client at once when its topic is known, and holds it in order otherwise. A
//! *caretaker* task asks the cluster about topics and replaces a producer that broke; it does so on the blocking threads,
//! so that no async thread ever waits for librdkafka.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    error::KafkaError,
    producer::{BaseRecord, Producer as _, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    client::{Answer, ask_topic, locked},
    held::Holding,
    outcome,
    producer::{Client, Flight, Progress, produce},
    settings::Settings,
    wire,
};
use crate::transport::{Full, Outcome, OutgoingRow, Publisher, Token, TransportError};

/// How long purged rows may take to be reported before they are given up as unknown.
const PURGE_WAIT: Duration = Duration::from_secs(1);
/// With many rows in flight their reports arrive together: waiting this long for the rest of them saves a switch of threads
/// per row.
const TOGETHER: Duration = Duration::from_millis(1);
/// Between two questions about a topic that the cluster does not know yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct KafkaPublisher {
    shared: Arc<Shared>,
    caretaker: JoinHandle<()>,
}

struct Shared {
    settings: Arc<Settings>,
    flight: Arc<Flight>,
    router: Mutex<Router>,
}

/// Where the next row goes.
struct Router {
    /// None while a broken one is being replaced, and after closing.
    client: Option<Arc<Client>>,
    generation: u32,
    known: HashSet<String>,
    /// Topics that are being asked for, and since when.
    wanted: BTreeMap<String, Instant>,
    holding: Holding,
}

impl KafkaPublisher {
    /// Starts a publisher on a cluster that was just reached.
    pub(super) fn start(settings: &Arc<Settings>) -> Result<Self, TransportError> {
        let flight = Arc::new(Flight::new(settings.window_rows_max, settings.window_bytes_max));
        let client = produce(settings, &flight, 1)?;
        let router = Router {
            client: Some(Arc::new(client)),
            generation: 1,
            known: HashSet::new(),
            wanted: BTreeMap::new(),
            holding: Holding::default(),
        };
        let shared = Arc::new(Shared { settings: Arc::clone(settings), flight, router: Mutex::new(router) });
        let caretaker = tokio::spawn(take_care(Arc::clone(&shared)));
        Ok(Self { shared, caretaker })
    }
}

#[cfg(test)]
impl KafkaPublisher {
    /// As if librdkafka had reported a fatal error.
    pub(super) fn break_producer(&self) {
        self.shared.flight.kill(locked(&self.shared.router).generation);
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let shared = &*self.shared;
        let mut router = locked(&shared.router);
        if shared.flight.forgets_topics() {
            router.known.clear();
        }
        let topic = row.destination.name();
        let known = router.known.contains(topic);
        let direct = known && !shared.flight.is_dead(router.generation) && !router.holding.blocks(row);
        if let Some(client) = router.client.as_ref().filter(|_| direct) {
            let generation = router.generation;
            let slot = shared.flight.take(token, row.payload_len(), generation).ok_or(Full)?;
            match shared.send(client, generation, row, slot) {
                Sent::Taken => {}
                Sent::Full => {
                    shared.flight.give_back(slot);
                    return Err(Full);
                }
                Sent::Broken => {
                    shared.flight.sending(slot, 0);
                    router.holding.push(slot, row.clone());
                }
            }
            return Ok(());
        }
        let slot = shared.flight.take(token, row.payload_len(), 0).ok_or(Full)?;
        router.holding.push(slot, row.clone());
        if !known {
            router.wanted.entry(topic.to_owned()).or_insert_with(Instant::now);
        }
        shared.flight.care.notify_one();
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        let flight = &self.shared.flight;
        loop {
            match flight.progress() {
                Progress::None => flight.settled.notified().await,
                Progress::Started => {
                    tokio::time::sleep(TOGETHER).await;
                    return flight.collect();
                }
                Progress::Enough => return flight.collect(),
            }
        }
    }

    async fn close(mut self: Box<Self>) -> Vec<(Token, Outcome)> {
        let mut outcomes = Vec::new();
        let shared = Arc::clone(&self.shared);
        let all_settled = async {
            while !shared.flight.is_empty() {
                outcomes.append(&mut self.settled().await);
            }
        };
        // Elapsed or not, the rest is the same: what is still there is purged below.
        let in_time = tokio::time::timeout(shared.settings.close_timeout, all_settled).await.is_ok();
        self.caretaker.abort();
        let retired = shared.retire(!in_time);
        if tokio::task::spawn_blocking(retired).await.is_err() {
            tracing::warn!("the thread that closes the Kafka producer panicked");
        }
        outcomes.append(&mut shared.flight.collect());
        outcomes
    }
}

impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        self.caretaker.abort();
        // Closing a client joins its thread: not on an async thread. Nobody is left to hear of the outcomes.
        if let Some(client) = locked(&self.shared.router).client.take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

enum Sent {
    /// The client has it, or its outcome is already known.
    Taken,
    /// The client's own queue is full.
    Full,
    /// The client must be replaced first.
    Broken,
}

impl Shared {
    fn send(&self, client: &Client, generation: u32, row: &OutgoingRow, slot: u32) -> Sent {
        let topic = row.destination.name();
        let limit = self.settings.message_bytes_max;
        let bytes = wire::record_bytes(row);
        if bytes > limit {
            let text = format!(
                "topic {topic:?}: {bytes} bytes are more than message_bytes_max = {limit}; raise it and the topic's \
                 max.message.bytes, or send a smaller body"
            );
            self.flight.settle(slot, generation, Outcome::Permanent(text));
            return Sent::Taken;
        }
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, slot as usize);
        record = record.headers(wire::record_headers(row));
        record.payload = row.payload.as_deref();
        record.key = row.aggregateid.as_ref().map(String::as_bytes);
        let code = match client.send(record) {
            Ok(()) => return Sent::Taken,
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => return Sent::Full,
            Err((error, _)) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
        };
        if outcome::breaks_producer(code) {
            self.flight.kill(generation);
            return Sent::Broken;
        }
        if outcome::forgets_topic(code) {
            self.flight.forget_topics();
        }
        self.flight.settle(slot, generation, outcome::of_refusal(code, topic));
        Sent::Taken
    }

    /// Sends what need not wait any longer, in order.
    fn release(&self) {
        let mut router = locked(&self.router);
        let router = &mut *router;
        let Some(client) = router.client.clone() else { return };
        if self.flight.is_dead(router.generation) {
            return;
        }
        let known = &router.known;
        // A topic may have been forgotten while its rows waited for something else.
        for topic in router.holding.topics().filter(|topic| !known.contains(*topic)) {
            router.wanted.entry(topic.to_owned()).or_insert_with(Instant::now);
        }
        let mut broken = false;
        for held in router.holding.release(|topic| known.contains(topic)) {
            self.flight.sending(held.slot, router.generation);
            let sent = if broken {
                Sent::Broken
            } else {
                self.send(&client, router.generation, &held.row, held.slot)
            };
            match sent {
                Sent::Taken => {}
                Sent::Full => {
                    let outcome = Outcome::Transient("the client's queue is full".to_owned());
                    self.flight.settle(held.slot, router.generation, outcome);
                }
                Sent::Broken => {
                    broken = true;
                    self.flight.sending(held.slot, 0);
                    router.holding.push(held.slot, held.row);
                }
            }
        }
    }

    /// Takes the client away and returns what is left to do, which blocks: settle everything that it still has.
    fn retire(self: &Arc<Self>, purge: bool) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(self);
        move || {
            let (client, generation, held) = {
                let mut router = locked(&shared.router);
                let held = if purge { router.holding.drain() } else { Vec::new() };
                (router.client.take(), router.generation, held)
            };
            for held in held {
                let outcome = Outcome::Transient("closed before it was sent".to_owned());
                shared.flight.settle(held.slot, 0, outcome);
            }
            if let Some(client) = client {
                discard(&client);
            }
            shared.flight.abandon(generation, &Outcome::Unknown("the producer was closed".to_owned()));
        }
    }

    /// Replaces a broken producer: what it had is unknown, what waits goes to the new one. False when it must be tried again.
    async fn replace(self: &Arc<Self>) -> bool {
        let shared = Arc::clone(self);
        let (old, generation) = {
            let mut router = locked(&self.router);
            (router.client.take(), router.generation)
        };
        let made = tokio::task::spawn_blocking(move || {
            if let Some(old) = old {
                discard(&old);
            }
            shared.flight.abandon(generation, &Outcome::Unknown("the producer broke".to_owned()));
            produce(&shared.settings, &shared.flight, generation + 1)
        });
        let client = match made.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return self.give_up_held(&error.to_string()),
            Err(error) => return self.give_up_held(&error.to_string()),
        };
        {
            let mut router = locked(&self.router);
            router.client = Some(Arc::new(client));
            router.generation = generation + 1;
        }
        self.release();
        true
    }

    fn give_up_held(&self, cause: &str) -> bool {
        tracing::error!(cause, "cannot make a new Kafka producer");
        let held = {
            let mut router = locked(&self.router);
            router.wanted.clear();
            router.holding.drain()
        };
        for held in held {
            self.flight.settle(held.slot, 0, Outcome::Transient(format!("no producer: {cause}")));
        }
        false
    }

    /// Asks once for every topic that rows wait for. False when one of them has to be asked for again.
    async fn ask(self: &Arc<Self>) -> bool {
        let (client, wanted) = {
            let router = locked(&self.router);
            (router.client.clone(), router.wanted.clone())
        };
        let Some(client) = client else { return true };
        let wait = self.settings.connect_timeout;
        let names: Vec<String> = wanted.keys().cloned().collect();
        let asked = tokio::task::spawn_blocking(move || {
            let mut answers = Vec::with_capacity(names.len());
            for name in names {
                let answer = ask_topic(client.client(), &name, wait);
                answers.push((name, answer));
                if matches!(answer, Answer::Silence(_)) {
                    break; // the others would wait just as long; they are asked for in the next round
                }
            }
            answers
        });
        let Ok(answers) = asked.await else { return false };
        let mut complete = answers.len() == wanted.len();
        for (topic, answer) in answers {
            let since = wanted[&topic];
            complete &= self.answer(&topic, answer, since.elapsed());
        }
        self.release();
        complete
    }

    /// Acts on what the cluster said about a topic. False when it must be asked again.
    fn answer(&self, topic: &str, answer: Answer, waited: Duration) -> bool {
        let outcome = match answer {
            Answer::Known => {
                let mut router = locked(&self.router);
                router.wanted.remove(topic);
                router.known.insert(topic.to_owned());
                return true;
            }
            Answer::Unknown if waited < self.settings.unknown_topic_wait => return false,
            Answer::Unknown => outcome::of_refusal(Code::UnknownTopicOrPartition, topic),
            Answer::Refused(code) => outcome::of_refusal(code, topic),
            Answer::Silence(code) => {
                Outcome::Transient(format!("cannot reach {}: topic {topic:?}: {code}", self.settings.brokers))
            }
        };
        let held = {
            let mut router = locked(&self.router);
            router.wanted.remove(topic);
            router.holding.refuse(topic)
        };
        for held in held {
            self.flight.settle(held.slot, 0, outcome.clone());
        }
        true
    }

    fn is_broken(&self) -> bool {
        self.flight.is_dead(locked(&self.router).generation)
    }

    fn wants_topics(&self) -> bool {
        !locked(&self.router).wanted.is_empty()
    }
}

/// Purges a client and serves the reports of what it had. Blocks.
fn discard(client: &Client) {
    client.purge(PurgeConfig::default().queue().inflight());
    if let Err(error) = client.flush(PURGE_WAIT) {
        tracing::debug!(%error, "purged rows were not all reported");
    }
}

async fn take_care(shared: Arc<Shared>) {
    loop {
        shared.flight.care.notified().await;
        while shared.is_broken() || shared.wants_topics() {
            let replaced = !shared.is_broken() || shared.replace().await;
            let answered = !shared.wants_topics() || shared.ask().await;
            if !replaced || !answered {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}
