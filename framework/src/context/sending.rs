//! Sending from a handler. Everything here only stages: it leaves with the commit, and not at all when the message fails.

use std::sync::PoisonError;

use super::Context;
use crate::{
    destination::Destination,
    error::{Error, Result},
    limits,
    message::Outgoing,
};

impl Context {
    /// Publishes an event to the topic of its aggregate, or where its route or [`Outgoing::to`] says. Only stages: it
    /// leaves with the commit, and not at all when the message fails.
    ///
    /// # Errors
    /// When the bus forbids sending (idempotency without outbox), when too much was sent, or after the handlers returned.
    pub fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        self.stage(message.into())
    }

    /// Sends a command to the queue that its route or [`Outgoing::to`] names. Only stages, like [`Context::publish`].
    ///
    /// # Errors
    /// As [`Context::publish`], and when there is no route for it; the text lists the routes.
    pub fn send(&self, message: impl Into<Outgoing>) -> Result<()> {
        let mut message = message.into();
        if message.to.is_none() {
            message.to = Some(self.0.core.routes.owner(&message.name)?.clone());
        }
        self.stage(message)
    }

    /// Sends a message to this bus's own queue. Only stages.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn send_local(&self, message: impl Into<Outgoing>) -> Result<()> {
        let queue = Destination::queue(self.0.core.inbox.queue.clone())?;
        self.stage(message.into().to(queue))
    }

    pub(super) fn stage(&self, message: Outgoing) -> Result<()> {
        self.0.core.sending_allowed()?;
        self.push(message)
    }

    /// Stages a message whether or not the bus may send.
    pub(super) fn push(&self, message: Outgoing) -> Result<()> {
        let mut staged = self.0.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(staged) = staged.as_mut() else {
            return Err(Error::new(
                "the message is being completed: what it sends must be sent before its handlers return",
            ));
        };
        if staged.len() >= limits::STAGED_MESSAGES_MAX {
            return Err(Error::permanent(format!(
                "one message may send {} others: split the work into several messages",
                limits::STAGED_MESSAGES_MAX
            )));
        }
        staged.push(message);
        Ok(())
    }

    /// What was sent, once; sending is an error afterwards.
    pub(crate) fn take_staged(&self) -> Vec<Outgoing> {
        self.0.staged.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}
