//! Queues in the memory of one process: for tests, and for buses whose messages may be lost with the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Consumer, Delivery, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Repeat, Settlement, Token,
    Transport, TransportError,
};
use crate::{destination::Destination, headers::Headers, limits};

/// A network of in-memory queues. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Network>);

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<String, VecDeque<Stored>>,
    subscriptions: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone, Debug)]
struct Stored {
    headers: Headers,
    body: bytes::Bytes,
    repeated: bool,
}

impl Memory {
    /// An empty network.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages wait in a queue.
    #[must_use]
    pub fn len(&self, queue: &str) -> usize {
        self.0.state().queues.get(queue).map_or(0, VecDeque::len)
    }

    /// Whether no message waits in a queue.
    #[must_use]
    pub fn is_empty(&self, queue: &str) -> bool {
        self.len(queue) == 0
    }

    /// The headers and bodies that wait in a queue, oldest first, without taking them.
    #[must_use]
    pub fn peek(&self, queue: &str) -> Vec<(Headers, bytes::Bytes)> {
        let state = self.0.state();
        let waiting = state.queues.get(queue).into_iter().flatten();
        waiting.map(|stored| (stored.headers.clone(), stored.body.clone())).collect()
    }
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        // Queues cannot be left half changed: every change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, row: &OutgoingRow) -> Outcome {
        let stored = Stored {
            headers: row.wire_headers(),
            body: row.payload.clone().unwrap_or_default(),
            repeated: false,
        };
        let mut state = self.state();
        let State { queues, subscriptions } = &mut *state;
        match &row.destination {
            Destination::Queue(name) => match queues.get_mut(name) {
                Some(queue) => queue.push_back(stored),
                None => return Outcome::Permanent(format!("there is no queue {name:?}")),
            },
            Destination::Topic(topic) => {
                for name in subscriptions.get(topic).into_iter().flatten() {
                    queues.entry(name.clone()).or_default().push_back(stored.clone());
                }
            }
        }
        drop(state);
        self.changed.notify_waiters();
        Outcome::Confirmed
    }
}

#[async_trait]
impl Transport for Memory {
    fn promises(&self) -> Promises {
        Promises {
            durable: false,
            knows_repeats: true,
            delays: true,
            orders_keys: false,
            refuses_unknown_queues: true,
        }
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        let mut state = self.0.state();
        state.queues.entry(inbox.queue.clone()).or_default();
        for topic in &inbox.topics {
            state.subscriptions.entry(topic.clone()).or_default().insert(inbox.queue.clone());
        }
        Ok(())
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Ok(Box::new(MemoryConsumer { network: Arc::clone(&self.0), queue: inbox.queue.clone() }))
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        if let Some(queues) = self.0.state().subscriptions.get_mut(topic) {
            queues.remove(queue);
        }
        Ok(())
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(MemoryPublisher { network: Arc::clone(&self.0), settled: Vec::new() }))
    }

    async fn remove(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.0.state().queues.remove(&inbox.queue);
        Ok(())
    }
}

struct MemoryConsumer {
    network: Arc<Network>,
    queue: String,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        loop {
            let changed = self.network.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a message that arrives in between is not missed.
            changed.as_mut().enable();
            let next = self.network.state().queues.get_mut(&self.queue).and_then(VecDeque::pop_front);
            if let Some(stored) = next {
                return Ok(Delivery {
                    headers: stored.headers.clone(),
                    body: stored.body.clone(),
                    source: self.queue.clone(),
                    repeat: if stored.repeated { Repeat::Possible } else { Repeat::First },
                    settlement: Box::new(MemorySettlement {
                        network: Arc::clone(&self.network),
                        queue: self.queue.clone(),
                        stored: Some(stored),
                    }),
                });
            }
            changed.await;
        }
    }

    fn silent_for(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    async fn close(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }
}

struct MemorySettlement {
    network: Arc<Network>,
    queue: String,
    /// Taken when it was settled.
    stored: Option<Stored>,
}

fn put_back(network: &Network, queue: &str, mut stored: Stored) {
    stored.repeated = true;
    network.state().queues.entry(queue.to_owned()).or_default().push_back(stored);
    network.changed.notify_waiters();
}

#[async_trait]
impl Settlement for MemorySettlement {
    async fn ack(mut self: Box<Self>) -> Result<(), TransportError> {
        self.stored = None;
        Ok(())
    }

    async fn nack(mut self: Box<Self>, after: Duration) -> Result<(), TransportError> {
        if let Some(stored) = self.stored.take() {
            let (network, queue) = (Arc::clone(&self.network), self.queue.clone());
            // Ends after the pause; a process that ends earlier loses its queues anyway.
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                put_back(&network, &queue, stored);
            });
        }
        Ok(())
    }
}

impl Drop for MemorySettlement {
    fn drop(&mut self) {
        if let Some(stored) = self.stored.take() {
            put_back(&self.network, &self.queue, stored);
        }
    }
}

struct MemoryPublisher {
    network: Arc<Network>,
    settled: Vec<(Token, Outcome)>,
}

#[async_trait]
impl Publisher for MemoryPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        if self.settled.len() >= limits::WINDOW_ROWS {
            return Err(Full);
        }
        let outcome = self.network.deliver(row);
        self.settled.push((token, outcome));
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        if self.settled.is_empty() {
            std::future::pending::<()>().await;
        }
        std::mem::take(&mut self.settled)
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.settled
    }
}
