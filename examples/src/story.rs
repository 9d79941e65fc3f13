//! The story: starts both buses and the relay, lets customers order, crashes the relay, and waits until all is over.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use barid::{Bus, BusError, Outgoing, Sender, Transport};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Arguments, Ledger, Place, Shop, faults,
    messages::{Names, PlaceOrder},
    relay::Relays,
    shop::Progress,
};

/// How often the tables are asked how far the story has come.
const LOOK: Duration = Duration::from_millis(20);

/// A story that has come no further for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Orders that are sent and not yet confirmed.
const SENDING: usize = 64;

/// Everything that a run needs to know.
#[derive(Debug)]
pub struct Story<T> {
    /// The tables.
    pub shop: Shop,
    /// How messages travel.
    pub transport: T,
    /// The names of queues and topics.
    pub names: Names,
    /// How many orders are placed.
    pub messages: u64,
}

impl<T: Transport + Clone> Story<T> {
    /// Runs from the first order to the last delivery, and counts.
    ///
    /// # Errors
    /// When a part of it fails or is stuck. A promise that was broken is no error here: the ledger shows it.
    pub async fn tell(self, mut relay: impl Relays) -> anyhow::Result<Ledger> {
        let (orders, shipping) = self.shop.buses(self.transport.clone(), &self.names)?;
        // Before anybody sends: what is published to a topic without subscribers is nobody's.
        orders.declare().await?;
        shipping.declare().await?;

        let stop = CancellationToken::new();
        let mut parts = Parts::default();
        parts.run(orders, &stop);
        parts.run(shipping, &stop);
        relay.start().await?;
        parts.0.spawn(place_orders(self.transport.clone(), self.names.clone(), self.messages));

        Box::pin(self.until_all_is_over(&mut relay, &mut parts)).await?;

        stop.cancel();
        while parts.ended().await?.is_some() {}
        relay.stop().await?;
        Ledger::count(&self.shop).await
    }

    async fn until_all_is_over(&self, relay: &mut impl Relays, parts: &mut Parts) -> anyhow::Result<()> {
        let bar = bar(self.messages);
        let (mut crashed, mut closed) = (false, false);
        let (mut last, mut since) = (Progress::default(), Instant::now());
        loop {
            parts.check()?;
            let now = self.shop.progress().await?;
            bar.set_position(now.shipments);
            bar.set_message(format!("{} committed, {} in the outbox", now.orders, now.outbox));
            if !crashed && now.orders >= self.messages / 3 && now.shipments > 0 {
                let in_flight = relay.crash().await?;
                self.shop.journal.crash(in_flight).await?;
                relay.start().await?;
                crashed = in_flight > 0;
            }
            if !closed && now.orders >= self.messages {
                self.shop.close_orders(&self.names).await?;
                closed = true;
            }
            // A customer's last event has arrived, and so has everything before it.
            if now.closings >= faults::CUSTOMERS {
                bar.finish_and_clear();
                return Ok(());
            }
            if now != last {
                (last, since) = (now, Instant::now());
            }
            anyhow::ensure!(since.elapsed() < STUCK, "nothing has moved for {STUCK:?}: {now:?}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Buses and customers, each a task.
#[derive(Default)]
struct Parts(JoinSet<anyhow::Result<()>>);

impl Parts {
    fn run(&mut self, bus: Bus, stop: &CancellationToken) {
        let stopped = stop.clone().cancelled_owned();
        self.0.spawn(async move { Ok::<(), BusError>(bus.run_until(stopped).await?).map_err(Into::into) });
    }

    /// An error when a part has failed.
    fn check(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.0.try_join_next() {
            ended??;
        }
        Ok(())
    }

    /// Waits for the next part to end; `None` when all have.
    async fn ended(&mut self) -> anyhow::Result<Option<()>> {
        self.0.join_next().await.transpose()?.transpose()
    }
}

/// The customers: many orders at a time, some of them twice.
async fn place_orders(transport: impl Transport, names: Names, messages: u64) -> anyhow::Result<()> {
    let sender = Sender::connect(&transport, "customers").await?;
    let queue = names.orders_queue()?;
    let sent = stream::iter(0..messages).map(Ok).try_for_each_concurrent(SENDING, |command| {
        let (sender, queue) = (&sender, &queue);
        async move {
            let id = Uuid::now_v7();
            let copies = if faults::sent_twice(command) { 2 } else { 1 };
            for _ in 0..copies {
                let order = PlaceOrder { command, customer: faults::customer(command) };
                sender.send(Outgoing::new(order).id(id).to(queue.clone())).await?;
            }
            Ok(())
        }
    });
    let sent: barid::Result<()> = sent.await;
    sent.map_err(anyhow::Error::msg).context("placing orders")
}

fn bar(messages: u64) -> ProgressBar {
    let bar = ProgressBar::new(messages);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} shipped, {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Prints story and ledger, tidies up, and says with which status the program ends: 1 when a promise was broken, or when
/// nothing went wrong that could have broken one.
///
/// # Errors
/// When the tables cannot be removed.
pub async fn finish(
    ledger: &Ledger,
    shop: &Shop,
    place: Place,
    arguments: &Arguments,
) -> anyhow::Result<ExitCode> {
    shop.close().await;
    println!("{}\n", ledger.story());
    if !ledger.misfortune_struck() {
        println!("Not everything went wrong that should: this run shows nothing. Try more --messages.\n");
    }
    let good = ledger.promises_kept() && ledger.misfortune_struck();
    if arguments.keep || !good {
        println!("The tables are in {}\n", place.keep());
    } else {
        place.remove().await?;
    }
    println!("{ledger}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
