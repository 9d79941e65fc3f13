//! One channel of a publisher: the rows that wait for it, the rows in flight on it, and what becomes of them.
//!
//! Rows leave in the order in which they came. Three things hold them back, so that one bad row never costs its
//! neighbours:
//!
//! * an exchange that is not known to exist is asked for first ([`Exchanges`]);
//! * after the broker closed the channel over a message, the rows that were in flight are *suspects*: each is sent alone
//!   when it comes again, and the one that closes the channel again is the culprit, a permanent failure;
//! * lapin hands a returned message to whichever confirm it handles next, not to its own. When that happens the shard
//!   sends nothing until every answer is there, and only then says which row was returned.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use lapin::{Channel, Confirmation, Connection, message::BasicReturnMessage};
use uuid::Uuid;

use super::{
    connection::{Broker, channel_error},
    exchanges::{Exchanges, Presence},
    flights::Flights,
    wire::{self, Message},
};
use crate::{
    Destination,
    transport::{Outcome, Token, TransportError},
};

/// Suspects that are remembered. One incident makes at most a window of them.
const SUSPECTS_MAX: usize = 20_000;

/// A row on its way to the channel.
pub(super) struct Row {
    pub(super) token: Token,
    pub(super) id: Uuid,
    pub(super) destination: Destination,
    pub(super) message: Message,
    pub(super) body: Bytes,
}

/// The end of a row's way.
pub(super) struct Settled {
    pub(super) token: Token,
    pub(super) bytes: usize,
    pub(super) outcome: Outcome,
}

/// The connection that a shard publishes through.
pub(super) struct Via<'a> {
    pub(super) broker: &'a Arc<Broker>,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) exchanges: &'a mut Exchanges,
}

struct Flying {
    token: Token,
    id: Uuid,
    destination: Destination,
    bytes: usize,
    since: Instant,
    /// Why the broker sent it back, when it did.
    returned: Option<String>,
    /// The broker's confirm: positive or negative.
    answer: Option<bool>,
}

/// One channel and its rows.
#[derive(Default)]
pub(super) struct Shard {
    channel: Option<Arc<Channel>>,
    opening: Option<BoxFuture<'static, Result<Channel, TransportError>>>,
    waiting: VecDeque<Row>,
    flights: Flights,
    flying: HashMap<u64, Flying>,
    answers: Vec<(u64, lapin::Result<Confirmation>)>,
    next: u64,
    suspects: HashSet<Uuid>,
    /// The only row in flight is a suspect.
    alone: bool,
    /// A return came with another row's confirm: no verdict before every answer is there.
    confused: bool,
}

impl Shard {
    pub(super) fn opened(&mut self, channel: Channel) {
        self.channel = Some(Arc::new(channel));
    }

    /// Takes a row; [`Shard::pump`] sends it.
    pub(super) fn push(&mut self, row: Row) {
        self.waiting.push_back(row);
    }

    /// Sends what may be sent now. Returns whether anything was.
    pub(super) fn pump(&mut self, via: &mut Via<'_>, settled: &mut Vec<Settled>) -> bool {
        let mut sent = false;
        while let Some(row) = self.waiting.front() {
            let Some(channel) = &self.channel else { break };
            let suspect = !self.suspects.is_empty() && self.suspects.contains(&row.id);
            if self.confused || self.alone || (suspect && !self.flying.is_empty()) {
                break;
            }
            let presence = match &row.destination {
                Destination::Queue(_) => Presence::Exists,
                Destination::Topic(name) => via.exchanges.presence(name, via.broker, via.connection),
            };
            if presence == Presence::Asking {
                break;
            }
            let channel = channel.clone();
            let Some(row) = self.waiting.pop_front() else { break };
            if presence == Presence::Missing {
                self.suspects.remove(&row.id);
                settled.push(missing_exchange(&row));
            } else {
                self.launch(row, channel);
                self.alone = suspect;
                sent = true;
            }
        }
        sent
    }

    fn launch(&mut self, row: Row, channel: Arc<Channel>) {
        let number = self.next;
        self.next += 1;
        let flying = Flying {
            token: row.token,
            id: row.id,
            destination: row.destination,
            bytes: row.body.len(),
            since: Instant::now(),
            returned: None,
            answer: None,
        };
        self.flying.insert(number, flying);
        self.flights.launch(number, channel, row.message, row.body);
    }

    /// Collects answers, reopens the channel when it was closed, and sends what was held back.
    ///
    /// # Errors
    /// When the connection itself is gone; the caller then calls [`Shard::lose`].
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        via: &mut Via<'_>,
        settled: &mut Vec<Settled>,
    ) -> Result<(), TransportError> {
        loop {
            let mut answers = std::mem::take(&mut self.answers);
            self.flights.drain(cx, &mut answers);
            if !answers.is_empty() {
                let broken = self.judge(&mut answers, settled);
                answers.clear();
                if let Some(error) = broken {
                    self.break_channel(&error, via, settled)?;
                }
            }
            self.answers = answers;
            self.poll_opening(cx, via)?;
            if !self.pump(via, settled) {
                return Ok(());
            }
        }
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>, via: &Via<'_>) -> Result<(), TransportError> {
        if self.channel.is_some() {
            return Ok(());
        }
        let opening = self.opening.get_or_insert_with(|| {
            let (broker, connection) = (via.broker.clone(), via.connection.clone());
            Box::pin(async move { broker.publishing_channel(&connection).await })
        });
        if let Poll::Ready(channel) = opening.as_mut().poll(cx) {
            self.opening = None;
            self.opened(channel?);
        }
        Ok(())
    }

    /// Books the answers of one drain. Returns the error that ended the channel, if there is one.
    fn judge(
        &mut self,
        answers: &mut [(u64, lapin::Result<Confirmation>)],
        settled: &mut Vec<Settled>,
    ) -> Option<lapin::Error> {
        // Returns first: the confirm of a returned row may come before the one that carries the return.
        for (number, answer) in answers.iter_mut() {
            if let Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) = answer
                && let Some(returned) = returned.take()
            {
                self.book_return(*number, &returned);
            }
        }
        let mut broken: Option<lapin::Error> = None;
        for (number, answer) in answers.iter() {
            match answer {
                Ok(Confirmation::Ack(_)) => self.answer(*number, true, settled),
                Ok(Confirmation::Nack(_)) => self.answer(*number, false, settled),
                Ok(Confirmation::NotRequested) => self.unconfirmed(*number, settled),
                // The broker's own words explain more than "invalid channel state", which follows them.
                Err(error) if broken.as_ref().and_then(channel_error).is_none() => {
                    broken = Some(error.clone())
                }
                Err(_) => {}
            }
        }
        if self.confused && self.flying.values().all(|flying| flying.answer.is_some()) {
            self.confused = false;
            let numbers: Vec<u64> = self.flying.keys().copied().collect();
            numbers.into_iter().for_each(|number| self.verdict(number, settled));
        }
        broken
    }

    fn book_return(&mut self, carrier: u64, returned: &BasicReturnMessage) {
        let (exchange, key) = (returned.delivery.exchange.as_str(), returned.delivery.routing_key.as_str());
        let id = returned.delivery.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
        let is_owner = |flying: &Flying| {
            Some(flying.id) == id
                && flying.returned.is_none()
                && match &flying.destination {
                    Destination::Queue(queue) => exchange.is_empty() && queue == key,
                    Destination::Topic(topic) => exchange == topic,
                }
        };
        let owner = match self.flying.get(&carrier) {
            Some(flying) if is_owner(flying) => Some(carrier),
            _ => self.flying.iter().find(|(_, flying)| is_owner(flying)).map(|(number, _)| *number),
        };
        self.confused |= owner != Some(carrier);
        match owner.and_then(|owner| self.flying.get_mut(&owner)) {
            Some(flying) => {
                let text = returned.reply_text.as_str();
                flying.returned = Some(wire::returned_text(returned.reply_code, text, exchange, key));
            }
            None => tracing::error!(
                ?id,
                exchange,
                routing_key = key,
                "the broker returned a message that is not ours"
            ),
        }
    }

    fn answer(&mut self, number: u64, positive: bool, settled: &mut Vec<Settled>) {
        if let Some(flying) = self.flying.get_mut(&number) {
            flying.answer = Some(positive);
            if !self.confused {
                self.verdict(number, settled);
            }
        }
    }

    fn verdict(&mut self, number: u64, settled: &mut Vec<Settled>) {
        let Some(flying) = self.flying.remove(&number) else { return };
        let outcome = match (flying.answer, &flying.returned) {
            (Some(_), Some(why)) => Outcome::Permanent(format!("{}: {why}", flying.destination)),
            (Some(true), None) => Outcome::Confirmed,
            (Some(false), None) => {
                Outcome::Transient(format!("{}: the broker refused the message (nack)", flying.destination))
            }
            (None, _) => Outcome::Unknown(format!("{}: no answer", flying.destination)),
        };
        self.settle(&flying, outcome, settled);
    }

    fn settle(&mut self, flying: &Flying, outcome: Outcome, settled: &mut Vec<Settled>) {
        if !self.suspects.is_empty() && !matches!(outcome, Outcome::Unknown(_)) {
            self.suspects.remove(&flying.id);
        }
        self.alone &= !self.flying.is_empty();
        settled.push(Settled { token: flying.token, bytes: flying.bytes, outcome });
    }

    fn unconfirmed(&mut self, number: u64, settled: &mut Vec<Settled>) {
        tracing::error!("a channel is not in confirm mode; this is a bug in barid, please report it");
        if let Some(flying) = self.flying.remove(&number) {
            let why = format!("{}: published on a channel without confirms", flying.destination);
            self.settle(&flying, Outcome::Unknown(why), settled);
        }
    }

    /// The channel is closed. Rows in flight become unknown, but for the culprit when it was alone.
    fn break_channel(
        &mut self,
        error: &lapin::Error,
        via: &mut Via<'_>,
        settled: &mut Vec<Settled>,
    ) -> Result<(), TransportError> {
        let refusal = channel_error(error);
        if refusal.is_none() && !via.connection.status().connected() {
            return Err(via.broker.call_error(error));
        }
        tracing::warn!(broker = via.broker.address, %error, rows = self.flying.len(), "channel closed");
        let culprit = refusal.filter(|_| self.alone).map(|refusal| refusal.get_message().to_string());
        if refusal.is_some() {
            via.exchanges.forget();
            if self.suspects.len() > SUSPECTS_MAX {
                self.suspects.clear();
            }
            self.suspects.extend(self.flying.values().map(|flying| flying.id));
        }
        match culprit {
            Some(why) => {
                self.abandon(settled, |to| Outcome::Permanent(format!("{to}: refused by the broker: {why}")))
            }
            None => {
                self.abandon(settled, |to| Outcome::Unknown(format!("{to}: the channel was closed: {error}")))
            }
        }
        Ok(())
    }

    /// Gives up the channel and everything in flight on it.
    fn abandon(&mut self, settled: &mut Vec<Settled>, outcome: impl Fn(&Destination) -> Outcome) {
        self.channel = None;
        self.opening = None;
        self.flights = Flights::default();
        self.confused = false;
        for flying in std::mem::take(&mut self.flying).into_values() {
            let outcome = match (&flying.returned, flying.answer) {
                (Some(why), _) => Outcome::Permanent(format!("{}: {why}", flying.destination)),
                (None, Some(false)) => Outcome::Transient(format!("{}: nacked", flying.destination)),
                _ => outcome(&flying.destination),
            };
            self.settle(&flying, outcome, settled);
        }
        self.alone = false;
    }

    /// The connection is gone: what was in flight is unknown. Returns the rows that were never sent.
    pub(super) fn lose(&mut self, why: &str, settled: &mut Vec<Settled>) -> VecDeque<Row> {
        self.abandon(settled, |to| Outcome::Unknown(format!("{to}: {why}")));
        std::mem::take(&mut self.waiting)
    }

    /// Abandons the channel when a row on it waited for longer than `limit`.
    pub(super) fn expire(&mut self, limit: Duration, settled: &mut Vec<Settled>) {
        if self.flying.values().any(|flying| flying.since.elapsed() > limit) {
            tracing::warn!(rows = self.flying.len(), ?limit, "no confirm; opening another channel");
            self.abandon(settled, |to| Outcome::Unknown(format!("{to}: no confirm within {limit:?}")));
        }
    }

    /// Starts the clocks again: the broker was not listening.
    pub(super) fn postpone(&mut self) {
        let now = Instant::now();
        self.flying.values_mut().for_each(|flying| flying.since = now);
    }
}

fn missing_exchange(row: &Row) -> Settled {
    let why = format!(
        "{}: exchange {:?} does not exist; declare it or correct the destination",
        row.destination,
        row.destination.name()
    );
    Settled { token: row.token, bytes: row.body.len(), outcome: Outcome::Permanent(why) }
}

#[cfg(test)]
mod tests;
