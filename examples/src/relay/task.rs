//! The relay as a task of this process.

use std::{future::pending, sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use barid::{
    Transport,
    transport::{Consumer, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Token, TransportError},
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::Relays;
use crate::Shop;

/// How long a crash waits for its moment: messages that are published and not yet confirmed.
const MOMENT: Duration = Duration::from_secs(10);

/// A relay from the shop's outbox to a transport.
pub struct RelayTask<T> {
    shop: Shop,
    transport: T,
    running: Option<Running>,
}

struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    plug: Arc<Plug>,
}

impl<T: Transport + Clone> RelayTask<T> {
    /// Not started yet.
    pub fn new(shop: &Shop, transport: T) -> Self {
        Self { shop: shop.clone(), transport, running: None }
    }
}

#[async_trait]
impl<T: Transport + Clone> Relays for RelayTask<T> {
    async fn start(&mut self) -> anyhow::Result<()> {
        let plug = Arc::new(Plug::default());
        let sink = Pluggable { transport: self.transport.clone(), plug: Arc::clone(&plug) };
        // These four lines are all that a program needs to run the relay itself.
        let relay = Relay::builder(source::open::source("shop", &self.shop.pool))
            .sink(Sink::new("queues", Arc::new(sink)))
            .route("*", "queues", Order::Strict)
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move { Ok(relay.run_until(stopped).await.map(drop)?) });
        self.running = Some(Running { task, stop, plug });
        Ok(())
    }

    async fn crash(&mut self) -> anyhow::Result<i64> {
        let Running { task, plug, .. } = self.running.take().context("the relay does not run")?;
        plug.pulled.send_replace(true);
        let mut in_flight = plug.in_flight.subscribe();
        // Too late for a crash that matters when nothing comes: the story will say that none did.
        let moment = timeout(MOMENT, in_flight.wait_for(|rows| *rows > 0)).await;
        drop(moment);
        task.abort();
        match task.await {
            Ok(Ok(())) => anyhow::bail!("the relay stopped by itself"),
            Ok(Err(error)) => Err(error.context("the relay failed before it could crash")),
            Err(_aborted) => Ok(*plug.in_flight.borrow()),
        }
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(Running { task, stop, .. }) = self.running.take() else { return Ok(()) };
        stop.cancel();
        task.await.context("the relay's task")?
    }
}

/// Pulled, it keeps the answers of the broker from the relay: what is published from then on stays unconfirmed.
#[derive(Debug)]
struct Plug {
    pulled: watch::Sender<bool>,
    /// Published and not yet answered.
    in_flight: watch::Sender<i64>,
}

impl Default for Plug {
    fn default() -> Self {
        Self { pulled: watch::Sender::new(false), in_flight: watch::Sender::new(0) }
    }
}

/// A transport whose publishers have a plug.
struct Pluggable<T> {
    transport: T,
    plug: Arc<Plug>,
}

#[async_trait]
impl<T: Transport> Transport for Pluggable<T> {
    fn promises(&self) -> Promises {
        self.transport.promises()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.transport.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        self.transport.consumer(inbox).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        let publisher = self.transport.publisher().await?;
        Ok(Box::new(PluggablePublisher { publisher, plug: Arc::clone(&self.plug) }))
    }
}

struct PluggablePublisher {
    publisher: Box<dyn Publisher>,
    plug: Arc<Plug>,
}

#[async_trait]
impl Publisher for PluggablePublisher {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        self.publisher.submit(row, token)?;
        self.plug.in_flight.send_modify(|rows| *rows += 1);
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        let mut pulled = self.plug.pulled.subscribe();
        // An error would mean that the plug is gone, and this holds it.
        let pulled = async { drop(pulled.wait_for(|pulled| *pulled).await) };
        tokio::select! {
            biased;
            () = pulled => pending().await,
            outcomes = self.publisher.settled() => {
                self.plug.in_flight.send_modify(|rows| *rows -= i64::try_from(outcomes.len()).unwrap_or(0));
                outcomes
            }
        }
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.publisher.close().await
    }
}
