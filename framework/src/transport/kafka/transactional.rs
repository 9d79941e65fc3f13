//! The publishing half with Kafka transactions: one a batch, in the order of submission, the next after the one before.
//!
//! Rows are handed to a thread of their own, which blocks as librdkafka does. It takes whatever lies there, up to a bound, so
//! that a slow commit makes the next batch larger. A batch that does not commit takes everything with it that was submitted
//! before its outcome was collected: nothing of a key can overtake a row of it that was refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    batch::{Batches, Submitted},
    producer::{Flight, Progress},
    settings::{Settings, misconfigured},
};
use crate::transport::{Full, Outcome, OutgoingRow, Publisher, Token, TransportError};

/// What the publisher and its thread share.
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) id: String,
    pub(super) flight: Flight,
    /// Batches that did not commit as a whole, counted after their outcomes can be collected.
    pub(super) incidents: AtomicU64,
    /// Nobody waits for outcomes any more: end at the next opportunity.
    pub(super) stop: AtomicBool,
}

/// See the module.
pub(super) struct TransactionalPublisher {
    shared: Arc<Shared>,
    rows: Option<mpsc::Sender<Submitted>>,
    /// Incidents whose outcomes were collected.
    seen: u64,
    thread: Option<JoinHandle<()>>,
}

impl TransactionalPublisher {
    pub(super) fn start(settings: &Arc<Settings>) -> Result<Self, TransportError> {
        let shared = Arc::new(Shared {
            settings: Arc::clone(settings),
            id: settings.transactional_id.clone().unwrap_or_default(),
            flight: Flight::new(settings.window_rows_max, settings.window_bytes_max),
            incidents: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let (rows, submitted) = mpsc::channel(settings.window_rows_max.max(1));
        let batches = Batches::new(Arc::clone(&shared), submitted);
        let thread =
            std::thread::Builder::new().name("barid-kafka-batches".to_owned()).spawn(move || batches.run());
        let thread = thread.map_err(|error| {
            misconfigured("Kafka publisher", &format!("no thread: {error}"), "raise the limit of threads")
        })?;
        Ok(Self { shared, rows: Some(rows), seen: 0, thread: Some(thread) })
    }

    fn collect(&mut self) -> Vec<(Token, Outcome)> {
        // In this order: an incident is counted after its outcomes are there.
        self.seen = self.shared.incidents.load(Ordering::SeqCst);
        self.shared.flight.collect()
    }
}

#[async_trait]
impl Publisher for TransactionalPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let slot = self.shared.flight.take(token, row.payload_len(), 0).ok_or(Full)?;
        let submitted = Submitted { slot, row: row.clone(), seen: self.seen };
        // There is room: the channel is as large as the window.
        let taken = self.rows.as_ref().is_some_and(|rows| rows.try_send(submitted).is_ok());
        if !taken {
            let why = "the thread that publishes has ended; see the log".to_owned();
            self.shared.flight.settle(slot, 0, Outcome::Transient(why));
        }
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        loop {
            match self.shared.flight.progress() {
                Progress::None => self.shared.flight.settled.notified().await,
                Progress::Started | Progress::Enough => return self.collect(),
            }
        }
    }

    fn give_up(&mut self) {
        // What waits is turned away; a transaction under way is whoever's who goes on under the id.
        self.shared.incidents.fetch_add(1, Ordering::SeqCst);
    }

    async fn close(mut self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.rows = None;
        let mut outcomes = Vec::new();
        let shared = Arc::clone(&self.shared);
        let all_settled = async {
            while !shared.flight.is_empty() {
                outcomes.append(&mut self.settled().await);
            }
        };
        // Elapsed or not, the rest is the same: what is still there is unknown.
        let _ = tokio::time::timeout(shared.settings.close_timeout, all_settled).await;
        shared.stop.store(true, Ordering::SeqCst);
        shared.flight.abandon_all(&Outcome::Unknown(
            "the publisher was closed before the batch was committed".to_owned(),
        ));
        outcomes.append(&mut shared.flight.collect());
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished)
            && thread.join().is_err()
        {
            tracing::error!("the thread that publishes in transactions panicked; this is a defect of barid");
        }
        outcomes
    }
}

impl Drop for TransactionalPublisher {
    fn drop(&mut self) {
        // The thread is not waited for: it ends after the call that it is in, all of which are bounded.
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}
