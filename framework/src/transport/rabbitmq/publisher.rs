//! The publishing half: a window of rows over a few channels, and a connection that comes back.
//!
//! There is no task and no lock: [`RabbitPublisher::submit`] puts frames into lapin's buffer, and everything else,
//! reconnecting included, happens while [`RabbitPublisher::settled`] is polled. All progress is kept in the struct, so
//! dropping that future loses nothing.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{
    future::BoxFuture,
    stream::{BoxStream, StreamExt as _},
};
use lapin::{Connection, Event};
use tokio::time::{Sleep, sleep};

use super::{
    connection::{Backoff, Broker, Opened},
    exchanges::Exchanges,
    pace::Pace,
    shard::{Row, Settled, Shard, Via},
    wire,
};
use crate::transport::{self, Full, Outcome, OutgoingRow, Publisher, Token, TransportError};

/// Where the connection stands.
enum Link {
    Up { connection: Arc<Connection>, events: BoxStream<'static, Event> },
    Opening(BoxFuture<'static, Result<Opened, TransportError>>),
    Pausing(Pin<Box<Sleep>>),
}

/// A row that was not sent because there was no connection. It settles when the next attempt to connect has ended, which
/// keeps a caller that sends again from spinning.
struct Held {
    token: Token,
    bytes: usize,
}

/// See the module.
pub(super) struct RabbitPublisher {
    broker: Arc<Broker>,
    link: Link,
    backoff: Backoff,
    shards: Vec<Shard>,
    exchanges: Exchanges,
    held: Vec<Held>,
    settled: Vec<Settled>,
    rows: usize,
    bytes: usize,
    /// How many rows may be in flight.
    pace: Pace,
    turn: usize,
    /// When confirm timeouts are looked at next.
    tick: Pin<Box<Sleep>>,
}

impl RabbitPublisher {
    pub(super) async fn open(broker: Arc<Broker>) -> Result<Self, TransportError> {
        let opened = broker.clone().open_publishing().await?;
        let mut this = Self {
            link: Link::Pausing(Box::pin(sleep(Duration::ZERO))),
            backoff: Backoff::new(&broker.settings),
            shards: (0..broker.settings.channels).map(|_| Shard::default()).collect(),
            exchanges: Exchanges::default(),
            held: Vec::new(),
            settled: Vec::new(),
            rows: 0,
            bytes: 0,
            pace: Pace::new(broker.settings.window_rows_min, broker.settings.window_rows_max),
            turn: 0,
            tick: Box::pin(sleep(tick(&broker))),
            broker,
        };
        this.up(opened);
        Ok(this)
    }

    fn up(&mut self, opened: Opened) {
        for (shard, channel) in self.shards.iter_mut().zip(opened.channels) {
            shard.opened(channel);
        }
        let events = opened.connection.events_listener().boxed();
        self.backoff.opened();
        self.link = Link::Up { connection: opened.connection, events };
    }

    fn shard_of(&mut self, row: &OutgoingRow) -> usize {
        match &row.aggregateid {
            Some(key) => wire::shard(&row.aggregatetype, key, self.shards.len()),
            None => {
                self.turn = (self.turn + 1) % self.shards.len();
                self.turn
            }
        }
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(Token, Outcome)>> {
        if let Err(error) = self.poll_link(cx) {
            self.lose(&error);
            // Polls the pause, so that its end wakes us.
            if let Err(error) = self.poll_link(cx) {
                self.lose(&error);
            }
        }
        self.poll_tick(cx);
        if self.settled.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(self.take_settled())
    }

    fn take_settled(&mut self) -> Vec<(Token, Outcome)> {
        let settled = std::mem::take(&mut self.settled);
        self.rows -= settled.len();
        self.bytes -= settled.iter().map(|settled| settled.bytes).sum::<usize>();
        let confirmed = settled.iter().filter(|settled| settled.outcome == Outcome::Confirmed).count();
        if let Some(window_rows) = self.pace.confirmed(confirmed, Instant::now()) {
            tracing::info!(
                broker = self.broker.address,
                window_rows,
                "found out how many unconfirmed rows it needs"
            );
        }
        settled.into_iter().map(|settled| (settled.token, settled.outcome)).collect()
    }

    /// Drives the connection, and the shards while it stands.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Result<(), TransportError> {
        loop {
            match &mut self.link {
                Link::Up { connection, events } => {
                    poll_events(cx, events, &self.broker);
                    if !connection.status().connected() {
                        return Err(self.broker.lost("the connection was closed"));
                    }
                    return self.poll_shards(cx);
                }
                Link::Pausing(pause) => {
                    if pause.as_mut().poll(cx).is_pending() {
                        return Ok(());
                    }
                    self.link = Link::Opening(Box::pin(self.broker.clone().open_publishing()));
                }
                Link::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(opened)) => {
                        tracing::info!(broker = self.broker.address, "connected again");
                        self.up(opened);
                        self.release("there was no connection; there is one again");
                    }
                    Poll::Ready(Err(error)) => {
                        self.release(&error.to_string());
                        return Err(error);
                    }
                },
            }
        }
    }

    fn poll_shards(&mut self, cx: &mut Context<'_>) -> Result<(), TransportError> {
        let Self { link: Link::Up { connection, .. }, exchanges, broker, shards, settled, .. } = self else {
            return Ok(());
        };
        loop {
            let answered = match exchanges.poll(cx) {
                Poll::Ready(answer) => answer.map(|()| true)?,
                Poll::Pending => false,
            };
            for shard in shards.iter_mut() {
                shard.poll(cx, &mut Via { broker, connection, exchanges }, settled)?;
            }
            if !answered && !exchanges.fresh() {
                return Ok(());
            }
        }
    }

    /// Looks for rows whose confirm is overdue. The clock stands still while the broker blocks publishers.
    fn poll_tick(&mut self, cx: &mut Context<'_>) {
        while self.rows > 0 && self.tick.as_mut().poll(cx).is_ready() {
            self.tick = Box::pin(sleep(tick(&self.broker)));
            let Link::Up { connection, .. } = &self.link else { continue };
            let blocked = connection.status().blocked();
            if blocked {
                self.pace.interrupted();
            }
            for shard in &mut self.shards {
                if blocked {
                    shard.postpone();
                } else {
                    shard.expire(self.broker.settings.confirm_timeout, &mut self.settled);
                }
            }
            // A shard that gave up its channel asks for another one when it is polled next.
            cx.waker().wake_by_ref();
        }
    }

    fn lose(&mut self, error: &TransportError) {
        let pause = self.backoff.pause();
        tracing::warn!(%error, rows = self.rows, ?pause, "no connection for publishing");
        let why = error.to_string();
        for shard in &mut self.shards {
            let waiting = shard.lose(&why, &mut self.settled);
            self.held.extend(waiting.into_iter().map(|row| Held { token: row.token, bytes: row.body.len() }));
        }
        self.exchanges.forget();
        self.pace.interrupted();
        self.link = Link::Pausing(Box::pin(sleep(pause)));
    }

    fn release(&mut self, why: &str) {
        for Held { token, bytes } in self.held.drain(..) {
            self.settled.push(Settled { token, bytes, outcome: Outcome::Transient(why.to_owned()) });
        }
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        let settings = &self.broker.settings;
        let bytes = row.payload_len();
        if self.rows >= self.pace.window() {
            self.pace.full();
            return Err(Full);
        }
        // A body larger than the byte window goes alone; it could never go otherwise.
        if self.rows > 0 && self.bytes + bytes > settings.window_bytes_max {
            return Err(Full);
        }
        self.rows += 1;
        self.bytes += bytes;
        let message = match wire::encode(row, settings.body_bytes_max) {
            Ok(message) => message,
            Err(why) => {
                let outcome = Outcome::Permanent(format!("{}: {why}", row.destination));
                self.settled.push(Settled { token, bytes, outcome });
                return Ok(());
            }
        };
        let shard = self.shard_of(row);
        let Self { link, exchanges, broker, shards, settled, held, .. } = self;
        match link {
            Link::Up { connection, .. } if connection.status().connected() => {
                let body = row.payload.clone().unwrap_or_default();
                let (id, destination) = (row.id, row.destination.clone());
                shards[shard].push(Row { token, id, destination, message, body });
                shards[shard].pump(&mut Via { broker, connection, exchanges }, settled);
            }
            _ => held.push(Held { token, bytes }),
        }
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        poll_fn(|cx| self.poll_settled(cx)).await
    }

    fn give_up(&mut self) {
        if matches!(self.link, Link::Up { .. }) {
            // The connection goes, with whatever is in its buffer.
            self.lose(&self.broker.lost("publishing was given up"));
        }
    }

    fn link(&self) -> transport::Link {
        match &self.link {
            Link::Up { connection, .. } if connection.status().blocked() => transport::Link::Blocked,
            Link::Up { connection, .. } if connection.status().connected() => transport::Link::Up,
            _ => transport::Link::Down,
        }
    }

    async fn close(mut self: Box<Self>) -> Vec<(Token, Outcome)> {
        let mut all = Vec::new();
        let deadline = tokio::time::Instant::now() + self.broker.settings.close_timeout;
        while self.rows > 0 && matches!(self.link, Link::Up { .. }) {
            match tokio::time::timeout_at(deadline, self.settled()).await {
                Ok(settled) => all.extend(settled),
                Err(_) => break,
            }
        }
        for shard in &mut self.shards {
            let waiting = shard.lose("the publisher was closed before a confirm came", &mut self.settled);
            self.held.extend(waiting.into_iter().map(|row| Held { token: row.token, bytes: row.body.len() }));
        }
        self.release("the publisher was closed before this was sent");
        all.extend(self.take_settled());
        if let Link::Up { connection, .. } = &self.link {
            // Every outcome is known by now; a connection that cannot even be closed is dropped.
            let _ = tokio::time::timeout_at(deadline, connection.close(200, "closed".into())).await;
        }
        all
    }
}

fn tick(broker: &Broker) -> Duration {
    (broker.settings.confirm_timeout / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

/// Logs what the broker says about the connection; being polled here is what wakes an idle publisher.
fn poll_events(cx: &mut Context<'_>, events: &mut BoxStream<'static, Event>, broker: &Broker) {
    while let Poll::Ready(Some(event)) = events.as_mut().poll_next(cx) {
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(broker = broker.address, reason, "the broker blocks publishers");
            }
            Event::ConnectionUnblocked => {
                tracing::info!(broker = broker.address, "the broker takes messages again");
            }
            _ => {}
        }
    }
}
