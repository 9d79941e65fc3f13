//! The publishing half: a bounded window of rows, and one task that writes what is waiting.
//!
//! While one transaction is being written the next rows gather, so that the batches grow with the load and a single row
//! does not wait for company. A row settles after the COMMIT of its transaction.

use std::collections::HashMap;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::queue::{NewRow, Shared, Targets};
use crate::{
    Destination,
    limits::{CALL_TIMEOUT, WINDOW_BYTES_MAX, WINDOW_ROWS},
    transport::{Full, Outcome, OutgoingRow, Publisher, Token},
};

/// A publisher of a SQL queue.
pub(super) struct SqlPublisher {
    waiting: mpsc::Sender<(Token, OutgoingRow)>,
    settled: mpsc::Receiver<(Token, Outcome)>,
    /// What was taken and not returned yet, with its size.
    in_flight: HashMap<Token, usize>,
    bytes: usize,
}

impl SqlPublisher {
    pub(super) fn start(database: Shared) -> Self {
        let (waiting, rows) = mpsc::channel(WINDOW_ROWS);
        // As large as the window: the writer never waits for its caller.
        let (outcomes, settled) = mpsc::channel(WINDOW_ROWS);
        tokio::spawn(write_all(database, rows, outcomes));
        Self { waiting, settled, in_flight: HashMap::new(), bytes: 0 }
    }

    fn returned(&mut self, (token, outcome): (Token, Outcome)) -> (Token, Outcome) {
        self.bytes -= self.in_flight.remove(&token).unwrap_or_default();
        (token, outcome)
    }

    /// An outcome for everything whose outcome will not come any more.
    fn give_up(&mut self, why: &str) -> Vec<(Token, Outcome)> {
        self.bytes = 0;
        self.in_flight.drain().map(|(token, _)| (token, Outcome::Unknown(why.to_owned()))).collect()
    }
}

#[async_trait]
impl Publisher for SqlPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let bytes = row.payload_len();
        let too_large = self.bytes + bytes > WINDOW_BYTES_MAX && !self.in_flight.is_empty();
        if too_large || self.in_flight.len() >= WINDOW_ROWS {
            return Err(Full);
        }
        // A closed channel means that the writer is gone: `settled` notices too, and answers for this row.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.waiting.try_send((token, row.clone())) {
            return Err(Full);
        }
        self.in_flight.insert(token, bytes);
        self.bytes += bytes;
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        if self.in_flight.is_empty() {
            return std::future::pending().await;
        }
        let Some(first) = self.settled.recv().await else {
            return self.give_up("the writer of the queue stopped");
        };
        let mut all = vec![self.returned(first)];
        while let Ok(next) = self.settled.try_recv() {
            all.push(self.returned(next));
        }
        all
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        let Self { waiting, settled, in_flight, bytes } = *self;
        drop(waiting);
        let (closed, _) = mpsc::channel(1);
        let mut rest = Self { waiting: closed, settled, in_flight, bytes };
        let mut all = Vec::new();
        let until = tokio::time::Instant::now() + CALL_TIMEOUT;
        while !rest.in_flight.is_empty() {
            match tokio::time::timeout_at(until, rest.settled.recv()).await {
                Ok(Some(outcome)) => all.push(rest.returned(outcome)),
                Ok(None) => all.extend(rest.give_up("the writer of the queue stopped")),
                Err(_) => all.extend(
                    rest.give_up("the queue's database did not answer before the publisher was closed"),
                ),
            }
        }
        all
    }
}

/// Writes batches until the publisher is gone and nothing is left.
async fn write_all(
    database: Shared,
    mut rows: mpsc::Receiver<(Token, OutgoingRow)>,
    outcomes: mpsc::Sender<(Token, Outcome)>,
) {
    let mut batch = Vec::with_capacity(WINDOW_ROWS);
    while rows.recv_many(&mut batch, WINDOW_ROWS).await > 0 {
        for outcome in write(&database, &batch).await {
            // Nobody is left to be told when the publisher was dropped; the rows are written all the same.
            let _ = outcomes.send(outcome).await;
        }
        batch.clear();
    }
}

/// Writes one batch and says what became of each row, in order.
async fn write(database: &Shared, batch: &[(Token, OutgoingRow)]) -> Vec<(Token, Outcome)> {
    let targets = match targets(database, batch).await {
        Ok(targets) => targets,
        Err(outcome) => return batch.iter().map(|(token, _)| (*token, outcome.clone())).collect(),
    };
    let planned: Vec<_> = batch.iter().map(|(token, row)| (*token, plan(row, &targets))).collect();
    let rows: Vec<NewRow> = planned.iter().flat_map(|(_, plan)| plan.iter().flatten().cloned()).collect();
    let together = insert(database, &rows).await;
    let mut settled = Vec::with_capacity(planned.len());
    for (token, plan) in planned {
        let outcome = match plan {
            Err(outcome) => outcome,
            // One row that the database does not want must not take the others with it.
            Ok(own) if matches!(together, Outcome::Permanent(_)) && own.len() < rows.len() => {
                insert(database, &own).await
            }
            Ok(_) => together.clone(),
        };
        settled.push((token, outcome));
    }
    database.bell().send_replace(());
    settled
}

/// The rows of the table that `row` becomes: one for a queue, one for each subscriber of a topic.
fn plan(row: &OutgoingRow, targets: &Targets) -> Result<Vec<NewRow>, Outcome> {
    let queues: Vec<&str> = match &row.destination {
        Destination::Queue(name) if targets.is_declared(name) => vec![name],
        Destination::Queue(name) => {
            return Err(Outcome::Permanent(format!(
                "nobody receives from queue {name:?}: no consumer has declared it; check the name, or start its consumer once"
            )));
        }
        Destination::Topic(name) => targets.subscribers(name).iter().map(String::as_str).collect(),
    };
    let headers = serde_json::to_string(&row.wire_headers())
        .map_err(|error| Outcome::Permanent(format!("the headers have no JSON form: {error}")))?;
    Ok(queues.into_iter().map(|queue| NewRow::new(queue, row, headers.clone())).collect())
}

async fn targets(database: &Shared, batch: &[(Token, OutgoingRow)]) -> Result<Targets, Outcome> {
    let (mut queues, mut topics) = (Vec::new(), Vec::new());
    for (_, row) in batch {
        let (names, name) = match &row.destination {
            Destination::Queue(name) => (&mut queues, name),
            Destination::Topic(name) => (&mut topics, name),
        };
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let call = database.call("targets", || database.statements().targets(&queues, &topics));
    call.await.map_err(|error| Outcome::Transient(error.to_string()))
}

/// Inserts all or nothing, within a bound: who knows what came of a COMMIT that was cut off.
async fn insert(database: &Shared, rows: &[NewRow]) -> Outcome {
    if rows.is_empty() {
        return Outcome::Confirmed;
    }
    match tokio::time::timeout(CALL_TIMEOUT, database.statements().insert(rows)).await {
        Ok(Ok(())) => Outcome::Confirmed,
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::Unknown(format!("{} did not answer within {CALL_TIMEOUT:?}", database.place())),
    }
}
