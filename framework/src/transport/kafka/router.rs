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
    /// The client has it, or its outcome is already known.
    Taken,
    /// The client's own queue is full.
    Full,
    /// The client must be replaced first.
    Broken,
}

impl Shared {
    /// Gives a row to the client, or holds it in order until that is possible.
    pub(super) fn submit(&self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let mut router = locked(&self.router);
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
            self.flight.settle(slot, generation, Outcome::Permanent(why));
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
        let mut broken = Vec::new();
        for held in router.holding.release(|topic| known.contains(topic)) {
            self.flight.sending(held.slot, router.generation);
            let sent = if broken.is_empty() {
                self.send(&client, router.generation, &held.row, held.slot)
            } else {
                Sent::Broken
            };
            match sent {
                Sent::Taken => {}
                Sent::Full => {
                    let outcome = Outcome::Transient("the client's queue is full".to_owned());
                    self.flight.settle(held.slot, router.generation, outcome);
                }
                Sent::Broken => {
                    self.flight.sending(held.slot, 0);
                    broken.push(held);
                }
            }
        }
        router.holding.put_back(broken);
    }
}
