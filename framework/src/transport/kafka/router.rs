//! Where the next row goes: to the client at once, or into the holding until its topic is known.
//!
//! Synchronous and quick: called for every row, by the publisher and, for rows that waited, by its caretaker. The router's
//! lock is held while a row is given to the client, so that rows of a key reach it in the order of their submission.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use rdkafka::{error::KafkaError, producer::BaseRecord, types::RDKafkaErrorCode as Code};
use tokio::time::Instant;

use super::{
    client::locked,
    held::Holding,
    outcome,
    producer::{Client, Flight},
    settings::Settings,
    wire,
};
use crate::transport::{Full, Outcome, OutgoingRow, Token};

/// What a publisher and its caretaker share.
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) flight: Arc<Flight>,
    pub(super) router: Mutex<Router>,
}

/// What decides where the next row goes.
pub(super) struct Router {
    /// None while a broken one is being replaced, and after closing.
    pub(super) client: Option<Arc<Client>>,
    pub(super) generation: u32,
    pub(super) known: HashSet<String>,
    /// Topics that are being asked for, and since when.
    pub(super) wanted: BTreeMap<String, Instant>,
    pub(super) holding: Holding,
}

enum Sent {
    /// The client has it.
    Taken,
    /// The client's own queue is full.
    Full,
    /// The client must be replaced first.
    Broken,
    /// It was not taken: this became of it.
    Refused(Outcome),
}

impl Shared {
    /// Gives a row to the client, or holds it in order until that is possible.
    pub(super) fn submit(&self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let mut router = locked(&self.router);
        if self.flight.has_failed() {
            return Err(Full); // the row may be of the key of the one that failed
        }
        if self.flight.forgets_topics() {
            router.known.clear();
        }
        let topic = row.destination.name();
        let known = router.known.contains(topic);
        let direct = known && !self.flight.is_dead(router.generation) && !router.holding.blocks(row);
        if let Some(client) = router.client.as_ref().filter(|_| direct) {
            let generation = router.generation;
            let slot = self.flight.take(token, row.payload_len(), generation).ok_or(Full)?;
            match self.send(client, generation, row, slot) {
                Sent::Taken => {}
                Sent::Refused(outcome) => self.flight.settle(slot, generation, outcome),
                Sent::Full => {
                    self.flight.give_back(slot);
                    return Err(Full);
                }
                Sent::Broken => {
                    self.flight.sending(slot, 0);
                    router.holding.push(slot, row.clone());
                }
            }
            return Ok(());
        }
        let slot = self.flight.take(token, row.payload_len(), 0).ok_or(Full)?;
        router.holding.push(slot, row.clone());
        if !known {
            router.wanted.entry(topic.to_owned()).or_insert_with(Instant::now);
        }
        self.flight.care.notify_one();
        Ok(())
    }

    fn send(&self, client: &Client, generation: u32, row: &OutgoingRow, slot: u32) -> Sent {
        let topic = row.destination.name();
        if let Some(why) = wire::too_large(row, self.settings.message_bytes_max) {
            return Sent::Refused(Outcome::Permanent(why));
        }
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, slot as usize);
        record = record.headers(wire::record_headers(row));
        record.payload = row.payload.as_deref();
        record.key = row.aggregateid.as_ref().map(String::as_bytes);
        record.partition = row.wire.as_ref().and_then(|wire| wire.partition);
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
        Sent::Refused(outcome::of_refusal(code, topic))
    }

    /// Sends what need not wait any longer, in order.
    pub(super) fn release(&self) {
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
        let generation = router.generation;
        let mut rows = router.holding.release(|topic| known.contains(topic)).into_iter();
        for held in rows.by_ref() {
            self.flight.sending(held.slot, generation);
            let outcome = match self.send(&client, generation, &held.row, held.slot) {
                Sent::Taken => continue,
                Sent::Refused(outcome) => outcome,
                Sent::Full => Outcome::Transient("not sent: the client's queue is full".to_owned()),
                Sent::Broken => Outcome::Transient("not sent: the producer was given up".to_owned()),
            };
            let goes_on = matches!(outcome, Outcome::Permanent(_));
            self.flight.settle(held.slot, generation, outcome);
            if !goes_on {
                break;
            }
        }
        // Behind one that has to be sent again: they may be of its key.
        self.not_sent(rows.collect(), "a row before it was not sent");
    }
}
