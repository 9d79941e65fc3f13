//! What travels through the incoming steps.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    batch::Seat,
    bus::BusCore,
    completion::Failure,
    context::Context,
    handler::{Attempted, Call},
    incoming::Incoming,
    saga::Concerned,
    store::{
        backend::IdempotencyKey,
        idempotency::Mark,
        saga::{Held, Lookup},
        statement::Statement,
    },
    transport::{OutgoingRow, Settlement},
};

/// One received message on its way through the incoming pipeline.
pub struct IncomingContext {
    pub(crate) context: Context,
    /// The handlers to call, with their names.
    pub(crate) calls: Vec<(&'static str, Call)>,
    /// The handler that runs, or failed.
    pub(crate) handler: Option<&'static str>,
    /// What the unit of work reads with its opening text; taken when it begins.
    pub(crate) reads: Vec<Statement>,
    /// The sagas that the message concerns, each with the position of its read.
    pub(crate) sagas: Vec<(Arc<dyn Concerned>, Option<usize>)>,
    /// Saved sagas of a store that is not in the unit of work.
    pub(crate) held: Option<Box<dyn Held>>,
    /// How often somebody else was first with a saga.
    pub(crate) conflicts: u32,
    /// Taken by the retry step when it settles the delivery.
    pub(crate) settlement: Option<Box<dyn Settlement>>,
    /// Whether the unit of work began and still has to end.
    pub(crate) unit_is_open: bool,
    /// Whether the message was handled before.
    pub(crate) duplicate: bool,
    /// What stands for the idempotency record, when the sender numbers its messages.
    pub(crate) mark: Option<Mark>,
    /// What is sent again, as it is.
    pub(crate) resent: Vec<OutgoingRow>,
    /// How the commit failed when a step carried it out; the retry step knows what to do about it.
    pub(crate) failure: Option<Failure>,
    /// Its end says nothing about whether handlers and commits work: the circuit breaker does not count it.
    pub(crate) says_nothing: bool,
    /// What became of it, for the log.
    pub(crate) outcome: &'static str,
}

impl IncomingContext {
    pub(crate) fn new(core: Arc<BusCore>, incoming: Incoming, settlement: Box<dyn Settlement>) -> Self {
        Self::of(Context::new(core, incoming), Some(settlement))
    }

    /// The same message once more, for the handlers of those whose attempts are used up. It is settled by `self`.
    pub(crate) fn second_level(&self, attempted: Attempted) -> Self {
        Self::of(Context::second_level(self.core(), self.message().clone(), attempted), None)
    }

    pub(crate) fn of(context: Context, settlement: Option<Box<dyn Settlement>>) -> Self {
        Self {
            context,
            calls: Vec::new(),
            handler: None,
            reads: Vec::new(),
            sagas: Vec::new(),
            held: None,
            conflicts: 0,
            settlement,
            unit_is_open: false,
            duplicate: false,
            mark: None,
            resent: Vec::new(),
            failure: None,
            says_nothing: false,
            outcome: "handled",
        }
    }

    /// As if nothing had happened to the message yet; with or without a place in a batch.
    pub(crate) fn start_over(&mut self, seat: Option<Arc<Seat>>) {
        let context = Context::seated(self.core(), self.message().clone(), seat);
        *self = Self::of(context, self.settlement.take());
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

    /// Notes a saga, to be read with the opening text of the unit of work. Who meets others a second time waits for them instead.
    pub(crate) fn concern(&mut self, saga: Arc<dyn Concerned>) {
        let core = self.core();
        let lock = self.conflicts > 0;
        let read = |lookup: &Lookup| core.sagas.store.as_ref()?.read(saga.saga(), lookup, lock);
        let read = saga.lookup().and_then(read);
        let position = read.is_some().then_some(self.reads.len());
        self.reads.extend(read);
        self.sagas.push((saga, position));
    }

    /// The same message and delivery from the start.
    pub(crate) fn renew(&mut self) {
        let incoming = self.message().clone();
        let attempt = self.context.attempt();
        let settlement = self.settlement.take();
        let conflicts = self.conflicts;
        *self = Self { conflicts, ..Self::of(Context::new(self.core(), incoming), settlement) };
        self.context.0.attempt.store(attempt, std::sync::atomic::Ordering::Relaxed);
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
