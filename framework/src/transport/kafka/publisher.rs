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
use tokio::task::JoinHandle;

use super::{
    caretaker::take_care,
    client::locked,
    held::Holding,
    producer::{Flight, Progress, produce},
    router::{Router, Shared},
    settings::Settings,
};
use crate::transport::{Full, Link, Outcome, OutgoingRow, Publisher, Token, TransportError};

/// With many rows in flight their reports arrive together: waiting this long for the rest of them saves a switch of threads
/// per row.
const TOGETHER: Duration = Duration::from_millis(1);

/// See the module.
pub(super) struct KafkaPublisher {
    shared: Arc<Shared>,
    caretaker: JoinHandle<()>,
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

#[async_trait]
impl Publisher for KafkaPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        self.shared.submit(row, token)
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

    fn give_up(&mut self) {
        let mut router = locked(&self.shared.router);
        let held = router.holding.drain();
        self.shared.not_sent(held, "publishing was given up");
        // The caretaker purges the queue and what is in flight, and goes on with a new producer.
        self.shared.flight.kill(router.generation);
    }

    fn link(&self) -> Link {
        self.shared.flight.link()
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
