//! Sending from a handler. Everything here only stages: it leaves with the commit, and not at all when the message fails.

use std::sync::PoisonError;

use super::Context;
use crate::{
    destination::Destination,
    error::{Error, Result},
    headers,
    incoming::Incoming,
    limits,
    message::Outgoing,
};

impl Context {
    /// Publishes an event to its subscribers: to its own topic and those of its bases, to the queues that a subscription store
    /// names, or where its route or [`Outgoing::to`] says. Without subscribers nothing is sent, which is no error. Only stages:
    /// it leaves with the commit, and not at all when the message fails.
    ///
    /// What one handler sends leaves in this order; whoever receives it sees the order of each key.
    ///
    /// # Errors
    /// When the bus forbids sending (idempotency without outbox), when too much was sent, or after the handlers returned.
    pub fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        self.stage(message.into())
    }

    /// Sends a command to the queue that its route or [`Outgoing::to`] names. Answers go to this bus's queue unless the message
    /// says otherwise. Only stages, like [`Context::publish`].
    ///
    /// # Errors
    /// As [`Context::publish`], and when there is no route for it; the text lists the routes.
    pub fn send(&self, message: impl Into<Outgoing>) -> Result<()> {
        self.stage(self.0.core.addressed(message.into())?)
    }

    /// Sends a message to this bus's own queue. Only stages.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn send_local(&self, message: impl Into<Outgoing>) -> Result<()> {
        let core = &self.0.core;
        self.stage(core.addressed(message.into().to(core.own_queue()?))?)
    }

    /// Answers the message being handled: to where its header `barid-reply-to` says, unless [`Outgoing::to`] was called, as a
    /// part of the same conversation. Only stages, like [`Context::publish`].
    ///
    /// # Errors
    /// As [`Context::publish`], and when the message does not say where answers go.
    pub fn reply(&self, message: impl Into<Outgoing>) -> Result<()> {
        let (incoming, mut message) = (self.incoming(), message.into());
        if message.to.is_none() {
            message.to = Some(reply_address(incoming)?);
        }
        let asked =
            incoming.headers.get(headers::ID).map_or_else(|| incoming.id.to_string(), ToOwned::to_owned);
        message.headers.set_default(headers::IN_REPLY_TO, || asked);
        self.stage(message)
    }

    /// Hands the message being handled on to `to`, as it is: the same bytes and headers, with an id of its own and the old one in
    /// `barid-original-id`. Only stages, like [`Context::publish`].
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn forward(&self, to: Destination) -> Result<()> {
        let incoming = self.incoming();
        let mut message = Outgoing::raw(&incoming.name, incoming.body.clone()).to(to);
        message.headers = incoming.headers.clone();
        message.headers.set_default(headers::ORIGINAL_ID, || incoming.id.to_string());
        if let Some(aggregate) = message.headers.remove(headers::AGGREGATE) {
            message.aggregate = aggregate;
        }
        message.key = message.headers.remove(headers::KEY);
        // The message has these again, and is no longer what came from that topic.
        for name in [headers::ID, headers::TYPE, headers::TOPIC] {
            message.headers.remove(name);
        }
        self.stage(message)
    }

    pub(super) fn stage(&self, message: Outgoing) -> Result<()> {
        self.0.core.sending_allowed()?;
        self.with_staged(|staged| {
            if staged.len() >= limits::STAGED_MESSAGES_MAX {
                return Err(Error::permanent(format!(
                    "one message may send {} others: split the work into several messages",
                    limits::STAGED_MESSAGES_MAX
                )));
            }
            staged.push(message);
            Ok(())
        })?
    }

    /// Changes what was sent, as long as that can change.
    pub(super) fn with_staged<T>(&self, change: impl FnOnce(&mut Vec<Outgoing>) -> T) -> Result<T> {
        let mut staged = self.0.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.as_mut().map(change).ok_or_else(|| {
            Error::new(
                "the message is being completed: what it sends must be sent before its handlers return",
            )
        })
    }

    /// What was sent, once; sending is an error afterwards.
    pub(crate) fn take_staged(&self) -> Vec<Outgoing> {
        self.0.staged.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

fn reply_address(asked: &Incoming) -> Result<Destination> {
    let Some(to) = asked.headers.get(headers::REPLY_TO) else {
        return Err(Error::permanent(format!(
            "message {} ({}) cannot be answered: it has no header {:?}. Whoever sends it must set it, as every bus does with what \
             it sends, or the reply must say .to(..) itself",
            asked.id,
            asked.name,
            headers::REPLY_TO
        )));
    };
    to.parse().map_err(|error| {
        Error::permanent(format!(
            "header {:?} of message {} cannot be used: {error}",
            headers::REPLY_TO,
            asked.id
        ))
    })
}
