//! Sends messages that no outbox carries: those of a bus without one, dead letters, and those of programs that only send.
//!
//! It has the routes, topics, subscriptions and codec of a bus, and no handlers.
//!
//! One supervised task owns the publisher; callers wait for the outcome of exactly their rows. Anything but a positive
//! confirm is an error.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    codec::Codec,
    dead_letter,
    destination::Destination,
    error::{Error, Result},
    headers::Headers,
    limits,
    message::Outgoing,
    pipeline::outgoing::Desk,
    subscriptions::Subscriptions,
    transport::{Outcome, OutgoingRow, Publisher, Token, Transport, TransportError},
};

type Job = (OutgoingRow, oneshot::Sender<Outcome>);

/// Sends messages directly to a transport. Cheap to clone; the last clone that is dropped ends its task.
#[derive(Clone)]
pub struct Sender {
    desk: Desk,
    jobs: mpsc::Sender<Job>,
    task: Arc<AbortOnDropHandle<()>>,
}

impl Sender {
    /// A sender on `transport` whose messages name `source` as their sender.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn connect(
        transport: &dyn Transport,
        source: impl Into<String>,
    ) -> Result<Self, TransportError> {
        let publisher = transport.publisher().await?;
        let (jobs, queue) = mpsc::channel(limits::WINDOW_ROWS);
        let task = AbortOnDropHandle::new(tokio::spawn(run(publisher, queue)));
        Ok(Self { desk: Desk::new(source.into()), jobs, task: Arc::new(task) })
    }

    /// Where messages named `name` go.
    #[must_use]
    pub fn route(mut self, name: &str, to: Destination) -> Self {
        self.desk.routes.add(name, to);
        self
    }

    /// Where messages go whose name matches `pattern`; see [`BusBuilder::route_pattern`](crate::BusBuilder::route_pattern).
    /// Patterns that leave the owner of a message open make sending it an error.
    #[must_use]
    pub fn route_pattern(mut self, pattern: &str, to: Destination) -> Self {
        self.desk.routes.add_pattern(pattern, to);
        self
    }

    /// How topics are called; see [`BusBuilder::topic_names`](crate::BusBuilder::topic_names).
    #[must_use]
    pub fn topic_names(mut self, convention: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        self.desk.routes.set_topics(convention);
        self
    }

    /// Who keeps the subscriptions of what is published. Default: the transport.
    #[must_use]
    pub fn subscriptions(mut self, subscriptions: Subscriptions) -> Self {
        self.desk.subscriptions = subscriptions;
        self
    }

    /// Encodes bodies with `codec` instead of JSON.
    #[must_use]
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.desk.codec = Arc::new(codec);
        self
    }

    /// Sends a command to the queue that its route or [`Outgoing::to`] names, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When there is no route for it, and when the broker did not confirm it; the text says whether it may have it all the same.
    pub async fn send(&self, message: impl Into<Outgoing>) -> Result<()> {
        let mut message = message.into();
        self.desk.address(&mut message)?;
        self.send_rows(&self.desk.rows(message).await?).await
    }

    /// Publishes an event to its subscribers, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When the broker did not confirm it; the text says whether it may have it all the same.
    pub async fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        self.send_rows(&self.desk.rows(message.into()).await?).await
    }

    /// Sends a dead letter back to the queue of the bus that gave it up, and waits until the broker has confirmed it. It keeps
    /// its id and is what it was before it failed; its attempts begin again. Acknowledge the dead letter only when this is Ok.
    ///
    /// # Errors
    /// When `headers` are not those of a dead letter, or the broker did not confirm the message.
    pub async fn return_to_source(&self, headers: &Headers, body: impl Into<Bytes>) -> Result<()> {
        let row = dead_letter::returned(headers, body.into())?;
        self.send_rows(std::slice::from_ref(&row)).await
    }

    /// Sends rows in their order and waits for all outcomes; the first bad one is the error.
    pub(crate) async fn send_rows(&self, rows: &[OutgoingRow]) -> Result<()> {
        let mut waiting = Vec::with_capacity(rows.len());
        for row in rows {
            let (answer, outcome) = oneshot::channel();
            self.jobs.send((row.clone(), answer)).await.map_err(|_| self.gone())?;
            waiting.push((row, outcome));
        }
        let mut first = Ok(());
        for (row, outcome) in waiting {
            let outcome = outcome.await.map_err(|_| self.gone())?;
            first = first.and(verdict(row, outcome));
        }
        first
    }

    fn gone(&self) -> Error {
        Error::new(if self.task.is_finished() { "the sender's task ended" } else { "the sender stops" })
    }
}

fn verdict(row: &OutgoingRow, outcome: Outcome) -> Result<()> {
    let what = format!("message {} ({}) to {}", row.id, row.name, row.destination);
    match outcome {
        Outcome::Confirmed => Ok(()),
        Outcome::Transient(cause) => Err(Error::new(format!("{what} was not taken: {cause}"))),
        Outcome::Permanent(cause) => Err(Error::new(format!("{what} cannot be delivered: {cause}"))),
        Outcome::Unknown(cause) => Err(Error::new(format!("{what} may or may not have been taken: {cause}"))),
    }
}

async fn run(mut publisher: Box<dyn Publisher>, mut queue: mpsc::Receiver<Job>) {
    let mut in_flight: HashMap<Token, oneshot::Sender<Outcome>> = HashMap::new();
    let mut next = 0_u64;
    let mut held: Option<Job> = None;
    loop {
        if let Some((row, answer)) = held.take() {
            let token = Token(next);
            match publisher.submit(&row, token) {
                Ok(()) => {
                    next += 1;
                    in_flight.insert(token, answer);
                }
                Err(_) => held = Some((row, answer)),
            }
        }
        tokio::select! {
            settled = publisher.settled(), if !in_flight.is_empty() => answer(&mut in_flight, settled),
            job = queue.recv(), if held.is_none() => match job {
                Some(job) => held = Some(job),
                None => break,
            },
        }
    }
    answer(&mut in_flight, publisher.close().await);
}

fn answer(in_flight: &mut HashMap<Token, oneshot::Sender<Outcome>>, settled: Vec<(Token, Outcome)>) {
    for (token, outcome) in settled {
        if let Some(waiting) = in_flight.remove(&token) {
            // A caller that was cancelled no longer wants to know.
            let _ = waiting.send(outcome);
        }
    }
}
