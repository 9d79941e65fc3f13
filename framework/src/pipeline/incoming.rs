//! What travels through the incoming steps.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    bus::BusCore,
    completion::Failure,
    context::Context,
    handler::Call,
    incoming::Incoming,
    store::{backend::IdempotencyKey, statement::Statement},
    transport::Settlement,
};

/// One received message on its way through the incoming pipeline.
pub struct IncomingContext {
    pub(crate) context: Context,
    pub(crate) calls: Vec<Call>,
    /// What the unit of work reads with its opening text; taken when it begins.
    pub(crate) reads: Vec<Statement>,
    /// Taken by the retry step when it settles the delivery.
    pub(crate) settlement: Option<Box<dyn Settlement>>,
    /// Whether the unit of work began and still has to end.
    pub(crate) unit_is_open: bool,
    /// Whether the message was handled before.
    pub(crate) duplicate: bool,
    /// How the commit failed when a step carried it out; the retry step knows what to do about it.
    pub(crate) failure: Option<Failure>,
    /// Its end says nothing about whether handlers and commits work: the circuit breaker does not count it.
    pub(crate) says_nothing: bool,
    /// What became of it, for the log.
    pub(crate) outcome: &'static str,
}

impl IncomingContext {
    pub(crate) fn new(core: Arc<BusCore>, incoming: Incoming, settlement: Box<dyn Settlement>) -> Self {
        Self {
            context: Context::new(core, incoming),
            calls: Vec::new(),
            reads: Vec::new(),
            settlement: Some(settlement),
            unit_is_open: false,
            duplicate: false,
            failure: None,
            says_nothing: false,
            outcome: "handled",
        }
    }

    /// The context that handlers get.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Incoming {
        self.context.incoming()
    }

    pub(crate) fn core(&self) -> Arc<BusCore> {
        Arc::clone(&self.context.0.core)
    }

    pub(crate) fn key(&self) -> IdempotencyKey {
        IdempotencyKey { message_id: self.id(), scope: self.context.0.core.name.clone() }
    }

    fn id(&self) -> Uuid {
        self.context.message_id()
    }
}
