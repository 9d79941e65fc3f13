//! The receiving half: claims rows in batches, hands them out one by one, and keeps their claims alive.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use uuid::Uuid;

use super::{
    claims::Claims,
    queue::{Claim, Claimed, Heads, Shared},
};
use crate::{
    backoff::Progress,
    headers::Headers,
    transport::{Consumer, Delivery, Inbox, Repeat, Settlement, TransportError},
};

/// A consumer of a SQL queue.
pub(super) struct SqlConsumer {
    database: Shared,
    queue: String,
    prefetch: usize,
    claims: Arc<Claims>,
    /// Claimed and not handed out.
    buffer: VecDeque<(Claim, Claimed)>,
    /// A claim that is under way. A task of its own, so that a dropped `receive` leaves nothing half done.
    claiming: Option<JoinHandle<Result<Batch, TransportError>>>,
    bell: watch::Receiver<()>,
    /// How long to wait before the next look; each one that finds nothing is a step further.
    poll: Progress,
    look_at: Instant,
    /// When the database last answered.
    answered: Instant,
    /// Behind which key the next look goes on.
    after_key: String,
}

/// The rows of one claim.
struct Batch {
    claim: Uuid,
    rows: Vec<Claimed>,
    /// By the local clock, counted from before the statement was sent: never later than the database's.
    until: Instant,
    /// Where the next look goes on.
    after_key: String,
}

impl SqlConsumer {
    pub(super) fn start(database: Shared, inbox: &Inbox, lease: Duration) -> Self {
        Self {
            queue: inbox.queue.clone(),
            prefetch: usize::from(inbox.prefetch.max(1)),
            claims: Claims::start(database.clone(), lease),
            buffer: VecDeque::new(),
            claiming: None,
            bell: database.bell().subscribe(),
            poll: inbox.poll.start(),
            look_at: Instant::now(),
            answered: Instant::now(),
            after_key: String::new(),
            database,
        }
    }

    /// Starts to claim as many rows as the prefetch has room for.
    fn claim(&mut self, room: usize) {
        let (database, queue, lease) = (self.database.clone(), self.queue.clone(), self.claims.lease());
        let (begin, rows_max) =
            (std::mem::take(&mut self.after_key), i64::try_from(room).unwrap_or(i64::MAX));
        self.claiming = Some(tokio::spawn(async move {
            let found = database.call("due", || database.statements().due(&queue, &begin, rows_max)).await?;
            let Heads { seqs, after_key } = Heads::choose(found, room);
            let (claim, until) = (Uuid::now_v7(), Instant::now() + lease);
            let mut rows = Vec::new();
            if !seqs.is_empty() {
                rows = database.call("claim", || database.statements().take(claim, &seqs, lease)).await?;
            }
            rows.sort_by_key(|row| row.seq);
            Ok(Batch { claim, rows, until, after_key })
        }));
    }

    /// Takes in what a claim brought, and decides when to look again.
    fn claimed(&mut self, batch: Batch) {
        self.after_key = batch.after_key;
        if batch.rows.is_empty() && self.after_key.is_empty() {
            self.look_at = Instant::now() + self.poll.pause();
            return;
        }
        self.poll.reset();
        self.look_at = Instant::now();
        for row in batch.rows {
            let claim = Claim { id: batch.claim, seq: row.seq };
            self.claims.hold(claim, batch.until);
            self.buffer.push_back((claim, row));
        }
    }

    /// Waits for the claim that is under way. Cancel safe.
    async fn claim_ended(&mut self) -> Result<(), TransportError> {
        let Some(claiming) = &mut self.claiming else { return Ok(()) };
        let ended = claiming.await;
        self.claiming = None;
        let batch = ended.unwrap_or_else(|error| {
            Err(TransportError::Lost { broker: self.database.place().to_owned(), cause: error.to_string() })
        });
        let batch = batch?;
        self.answered = Instant::now();
        self.claimed(batch);
        Ok(())
    }

    /// The next row whose claim still holds: one that waited here too long may be somebody else's by now.
    fn next(&mut self) -> Option<(Claim, Claimed)> {
        while let Some((claim, row)) = self.buffer.pop_front() {
            if self.claims.is_held(claim) {
                return Some((claim, row));
            }
        }
        None
    }

    fn delivery(&self, claim: Claim, row: Claimed) -> Delivery {
        // What is not a JSON object of texts was not written by a publisher of ours: hand it out, without headers.
        let headers: Headers = serde_json::from_str(&row.headers).unwrap_or_else(|error| {
            tracing::warn!(queue = %self.queue, seq = row.seq, %error, "the headers of a queued message cannot be read");
            Headers::new()
        });
        Delivery {
            headers,
            body: row.body,
            source: self.queue.clone(),
            repeat: if row.deliveries <= 1 { Repeat::First } else { Repeat::Possible },
            settlement: Box::new(SqlSettlement { claims: self.claims.clone(), claim }),
        }
    }
}

#[async_trait]
impl Consumer for SqlConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        loop {
            self.claim_ended().await?;
            if let Some((claim, row)) = self.next() {
                return Ok(self.delivery(claim, row));
            }
            let room = self.prefetch.saturating_sub(self.claims.held());
            if room == 0 {
                self.claims.changed().await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.look_at) => {}
                // Settling a message makes the next one of its key due; a failing bell means there is no publisher here.
                () = self.claims.changed() => self.poll.reset(),
                Ok(()) = self.bell.changed() => self.poll.reset(),
            }
            self.claim(room);
        }
    }

    fn silent_for(&mut self) -> Option<Duration> {
        // With everything handed out there is nothing to ask the database for.
        let full = self.claims.held() >= self.prefetch;
        Some(if full { Duration::ZERO } else { self.answered.elapsed() })
    }

    async fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        // A claim that failed brought nothing that could be given back.
        let claimed = self.claim_ended().await;
        let buffered: Vec<Claim> = self.buffer.drain(..).map(|(claim, _)| claim).collect();
        let result = self.claims.give_back(&buffered).await;
        self.database.bell().send_replace(());
        result.and(claimed)
    }
}

impl Drop for SqlConsumer {
    fn drop(&mut self) {
        // Without `close` the claims of buffered rows run out.
        for (claim, _) in self.buffer.drain(..) {
            self.claims.release(claim);
        }
    }
}

/// The right to settle one row.
struct SqlSettlement {
    claims: Arc<Claims>,
    claim: Claim,
}

#[async_trait]
impl Settlement for SqlSettlement {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.claims.ack(self.claim).await
    }

    async fn nack(self: Box<Self>, after: Duration) -> Result<(), TransportError> {
        self.claims.nack(self.claim, after).await
    }
}

impl Drop for SqlSettlement {
    fn drop(&mut self) {
        self.claims.release(self.claim);
    }
}
