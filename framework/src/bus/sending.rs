//! Sending and subscribing outside a handler, through a built bus.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Bus, BusCore};
use crate::{
    background::Background,
    context::Context,
    destination::Destination,
    error::{Error, Result},
    headers,
    message::{Message, Outgoing},
    pipeline::OutgoingContext,
    subscriptions::{self, Change},
    transport::{Inbox, OutgoingRow},
};

/// Sending outside a handler. Each message goes straight to the transport, without the outbox, and the call returns when the
/// broker has confirmed it: use [`Outbox::enqueue`](crate::Outbox::enqueue) when a message must leave exactly when a
/// transaction of yours commits.
///
/// Dropping one of these futures leaves open whether the message was sent.
impl Bus {
    /// Sends a command to the queue that its route or [`Outgoing::to`] names, and waits until the broker has it.
    ///
    /// # Errors
    /// When there is no route, when the queue does not exist, and whenever the broker did not confirm it; the text says whether
    /// it may have it all the same.
    pub async fn send(&self, message: impl Into<Outgoing>) -> Result<()> {
        let message = self.0.addressed(message.into())?;
        self.0.dispatch(message).await
    }

    /// Sends a message to this bus's own queue, and waits until the broker has it.
    ///
    /// # Errors
    /// As [`Bus::send`].
    pub async fn send_local(&self, message: impl Into<Outgoing>) -> Result<()> {
        let message = self.0.addressed(message.into().to(self.0.own_queue()?))?;
        self.0.dispatch(message).await
    }

    /// Publishes an event to its subscribers, and waits until the broker has it. Without subscribers nothing is sent.
    ///
    /// # Errors
    /// Whenever the broker did not confirm one of the copies, also because the queue of a subscriber does not exist.
    pub async fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        self.0.dispatch(message.into()).await
    }

    /// Subscribes this bus's queue to the topic of the event `M`, from now on. Again is no change. Makes the queue first, so
    /// that nothing is published to a queue that does not exist.
    ///
    /// On a native transport it holds until [`Bus::unsubscribe`], on Kafka as long as the transport lives; there it begins with
    /// the oldest message of the topic. With decentralised subscriptions it returns when the owner's queue has the request.
    ///
    /// # Errors
    /// When the transport or the store refuses or cannot be reached, and when the owner of the event is asked and no route names
    /// it.
    pub async fn subscribe<M: Message>(&self) -> Result<()> {
        self.0.change::<M>(Change::Subscribe).await
    }

    /// Ends the subscription of this bus's queue to the topic of the event `M`. Without one it is no change. What lies in the
    /// queue already is still handled.
    ///
    /// By default events of one aggregate share a topic, and this ends it for all of them; see
    /// [`BusBuilder::topic_names`](crate::BusBuilder::topic_names).
    ///
    /// # Errors
    /// As [`Bus::subscribe`].
    pub async fn unsubscribe<M: Message>(&self) -> Result<()> {
        self.0.change::<M>(Change::Unsubscribe).await
    }
}

impl BusCore {
    pub(crate) fn own_queue(&self) -> Result<Destination> {
        Ok(Destination::queue(self.inbox.queue.clone())?)
    }

    /// A message that is sent to one receiver: its owner unless it says so itself, and where answers go.
    pub(crate) fn addressed(&self, mut message: Outgoing) -> Result<Outgoing> {
        if message.to.is_none() {
            message.to = Some(self.routes.owner(&message.name)?.clone());
        }
        let own = self.own_queue()?;
        message.headers.set_default(headers::REPLY_TO, || own.to_string());
        Ok(message)
    }

    /// What an outgoing message becomes: no row, one, or one for each place it goes to.
    pub(crate) async fn rows(
        self: &Arc<Self>,
        message: Outgoing,
        cause: Option<Context>,
    ) -> Result<Vec<OutgoingRow>> {
        let mut outgoing = OutgoingContext::new(Arc::clone(self), cause, message);
        self.outgoing.run(&mut outgoing).await?;
        Ok(outgoing.into_rows())
    }

    async fn dispatch(self: &Arc<Self>, message: Outgoing) -> Result<()> {
        let rows = self.rows(message, None).await?;
        self.send_all(&rows).await
    }

    async fn change<M: Message>(self: &Arc<Self>, change: Change) -> Result<()> {
        let topic = self.routes.topic_of::<M>()?;
        let queue = &self.inbox.queue;
        if change == Change::Subscribe {
            self.transport.declare(&Inbox::new(queue.clone())).await?;
        }
        match self.subscriptions.store() {
            _ if self.subscriptions.owners_are_asked() => {
                let owner = self.routes.owner(M::NAME).map_err(|error| {
                    error.context(format!("the owner of event {:?} keeps its subscriptions", M::NAME))
                })?;
                self.ask(change, &topic, owner).await
            }
            Some(store) => store.change(change, &topic, queue).await,
            None => Ok(match change {
                Change::Subscribe => self.transport.subscribe(queue, &topic).await,
                Change::Unsubscribe => self.transport.unsubscribe(queue, &topic).await,
            }?),
        }
    }

    async fn ask(self: &Arc<Self>, change: Change, topic: &str, owner: &Destination) -> Result<()> {
        let request = subscriptions::request(change, topic, &self.inbox.queue, owner.clone())?;
        self.dispatch(request).await.map_err(|error| {
            let what = if change == Change::Subscribe { "a subscription to" } else { "the end of" };
            error.context(format!("asking {owner} for {what} topic {topic:?}"))
        })
    }

    /// Writes what this bus subscribes to at its start into a store that all share.
    pub(super) async fn subscribe_at_start(&self) -> Result<()> {
        let Some(store) = self.subscriptions.store() else { return Ok(()) };
        store.ready().await?;
        for topic in &self.start_topics {
            store.change(Change::Subscribe, topic, &self.inbox.queue).await?;
        }
        Ok(())
    }
}

/// Asks the owners for what this bus subscribes to at its start, until all of them have the requests: an owner may start later.
pub(super) struct AskOwners(pub(super) Vec<(String, Destination)>);

#[async_trait]
impl Background for AskOwners {
    fn name(&self) -> &'static str {
        "subscribe requests"
    }

    async fn run(&self, core: &Arc<BusCore>, _: &CancellationToken) -> Result<()> {
        let mut first: Result<(), Error> = Ok(());
        for (topic, owner) in &self.0 {
            first = first.and(core.ask(Change::Subscribe, topic, owner).await);
        }
        first
    }
}
