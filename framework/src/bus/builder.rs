//! Assembling a bus. `build()` reports every problem at once.

use std::{sync::Arc, time::Duration};

use crate::{
    background::Background,
    batch::BatchPolicy,
    codec::{Codec, Json},
    config::BusConfig,
    context::States,
    destination::Destination,
    handler::{IntoHandler, Level, Subject},
    idempotency::SqlIdempotency,
    limits,
    message::Message,
    outbox::SqlOutbox,
    pipeline::{IncomingContext, OutgoingContext, Position, Step},
    routing::{Handlers, Routes},
    schedule::Scheduling,
    subscriptions::Subscriptions,
    transport::{Inbox, Transport},
    unit_of_work::UnitOfWork,
};

mod batch;
mod build;
mod doorbell;
mod problems;
mod requests;
mod retries;
mod saga;
mod schedule;
mod sending;
mod workers;
pub use problems::{BuildError, Problem};
use retries::Retries;
pub(crate) use saga::Sagas;
use workers::WorkerParts;
pub use workers::WorkerSettings;

/// Assembles a [`Bus`](crate::Bus).
#[must_use = "a builder does nothing until build() is called"]
pub struct BusBuilder {
    name: String,
    inbox: Inbox,
    transport: Option<Arc<dyn Transport>>,
    unit_of_work: Option<Arc<dyn UnitOfWork>>,
    outbox: Option<SqlOutbox>,
    idempotency: Option<SqlIdempotency>,
    replies: Option<String>,
    schedule: Option<Scheduling>,
    handlers: Handlers,
    routes: Routes,
    subscriptions: Subscriptions,
    wanted: Vec<sending::Wanted>,
    background: Vec<Arc<dyn Background>>,
    states: States,
    sagas: saga::Given,
    codec: Arc<dyn Codec>,
    retries: Retries,
    parallelism: usize,
    batch: Option<BatchPolicy>,
    worker: WorkerParts,
    stop_grace: Duration,
    config: BusConfig,
    incoming: Vec<(Position, Arc<dyn Step<IncomingContext>>)>,
    outgoing: Vec<(Position, Arc<dyn Step<OutgoingContext>>)>,
}

impl BusBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            inbox: Inbox::new(name.clone()),
            name,
            transport: None,
            unit_of_work: None,
            outbox: None,
            idempotency: None,
            replies: None,
            schedule: None,
            handlers: Handlers::default(),
            routes: Routes::default(),
            subscriptions: Subscriptions::native(),
            wanted: Vec::new(),
            background: Vec::new(),
            states: States::default(),
            sagas: saga::Given::default(),
            codec: Arc::new(Json),
            retries: Retries::default(),
            parallelism: limits::PARALLELISM,
            batch: None,
            worker: WorkerParts::default(),
            stop_grace: limits::STOP_GRACE,
            config: BusConfig::default(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Where messages come from, and where those leave that no outbox carries. Required.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Receives from this queue instead of the one named like the bus.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.inbox.queue = queue.into();
        self.worker.queue_was_named = true;
        self
    }

    /// Also receives what is published to `topic`: through the transport, or through a
    /// [`Subscriptions::centralised`] store. [`BusBuilder::subscribe_to`] takes a type instead.
    pub fn subscribe(mut self, topic: impl Into<String>) -> Self {
        self.inbox.topics.push(topic.into());
        self
    }

    /// What begins before the handlers of a message and ends after them.
    pub fn unit_of_work(mut self, unit_of_work: impl UnitOfWork) -> Self {
        self.unit_of_work = Some(Arc::new(unit_of_work));
        self
    }

    /// What handlers send becomes rows that commit with the unit of work; a relay publishes them.
    pub fn outbox(mut self, outbox: SqlOutbox) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// A message that was handled and committed is recognised when it comes again.
    pub fn idempotency(mut self, idempotency: SqlIdempotency) -> Self {
        self.idempotency = Some(idempotency);
        self
    }

    /// Adds a handler: an async function, or a type that implements [`Handler`](crate::Handler). Several handlers of one
    /// message run one after the other in the order of their registration and share one unit of work.
    ///
    /// One whose first argument is [`Failed<M>`](crate::Failed) is called when the attempts at a message are used up.
    pub fn handler<S: Subject, Args: 'static>(mut self, handler: impl IntoHandler<S, Args>) -> Self {
        let handlers = match S::LEVEL {
            Level::First => &mut self.handlers,
            Level::Second => &mut self.retries.failed_handlers,
        };
        handlers.add(S::NAME, S::erased(handler));
        self
    }

    /// A value that handlers can ask for as [`State<T>`](crate::State).
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(Arc::new(state));
        self
    }

    /// Where messages of type `M` go that do not say so themselves.
    pub fn route<M: Message>(self, to: Destination) -> Self {
        self.route_name(M::NAME, to)
    }

    /// Where messages of this name go that do not say so themselves.
    pub fn route_name(mut self, name: &str, to: Destination) -> Self {
        self.routes.add(name, to);
        self
    }

    /// Encodes and decodes bodies with `codec` instead of JSON.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Messages handled at the same time; with [`BusBuilder::batch`], batches. Default: 16.
    pub fn parallelism(mut self, parallelism: usize) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// Deliveries that the transport holds ready. Default: 64.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.inbox.prefetch = prefetch;
        self
    }

    /// How long running handlers may take when the bus stops. Default: 30 s.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace;
        self
    }

    /// Settings from a file and the environment; they win over what the code says.
    pub fn config(mut self, config: BusConfig) -> Self {
        self.config = config;
        self
    }

    /// Puts a step into the way of received messages. The default steps are listed at
    /// [`incoming_steps`](crate::pipeline::incoming_steps).
    pub fn incoming_step(mut self, position: Position, step: impl Step<IncomingContext>) -> Self {
        self.incoming.push((position, Arc::new(step)));
        self
    }

    /// Puts a step into the way of messages that are sent. The default steps are listed at
    /// [`outgoing_steps`](crate::pipeline::outgoing_steps).
    pub fn outgoing_step(mut self, position: Position, step: impl Step<OutgoingContext>) -> Self {
        self.outgoing.push((position, Arc::new(step)));
        self
    }
}
