//! Assembling a bus. `build()` reports every problem at once.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use super::{Bus, BusCore, Settings};
use crate::{
    codec::{Codec, Json},
    config::BusConfig,
    context::States,
    destination::{Destination, DestinationError, checked_name},
    handler::{IntoHandler, Provided, Typed},
    idempotency::SqlIdempotency,
    limits,
    message::Message,
    outbox::SqlOutbox,
    pipeline::{IncomingContext, OutgoingContext, Position, Step, incoming_steps, outgoing_steps},
    retry::{MemoryAttempts, RetryPolicy},
    routing::{Handlers, Routes},
    transport::{Inbox, Transport},
    unit_of_work::{Capabilities, UnitOfWork},
};

/// One thing that is wrong with a bus, with the code of its page under `docs/errors/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For instance `BRD012`.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A bus that cannot be built. Prints every problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BuildError {
    /// The bus.
    pub bus: String,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus {:?} cannot be built", self.bus)?;
        for problem in &self.problems {
            write!(f, "\nerror {}: {}\n  {}", problem.code, problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

/// Assembles a [`Bus`].
#[must_use = "a builder does nothing until build() is called"]
pub struct BusBuilder {
    name: String,
    inbox: Inbox,
    transport: Option<Arc<dyn Transport>>,
    unit_of_work: Option<Arc<dyn UnitOfWork>>,
    outbox: Option<SqlOutbox>,
    idempotency: Option<SqlIdempotency>,
    handlers: Handlers,
    routes: Routes,
    states: States,
    codec: Arc<dyn Codec>,
    policy: RetryPolicy,
    parallelism: usize,
    stop_grace: Duration,
    dead_letters: String,
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
            handlers: Handlers::default(),
            routes: Routes::default(),
            states: States::default(),
            codec: Arc::new(Json),
            policy: RetryPolicy::default(),
            parallelism: limits::PARALLELISM,
            stop_grace: limits::STOP_GRACE,
            dead_letters: "dead-letters".to_owned(),
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
        self
    }

    /// Also receives what is published to `topic`.
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
    pub fn handler<M: Message, Args: 'static>(mut self, handler: impl IntoHandler<M, Args>) -> Self {
        self.handlers.add(M::NAME, Arc::new(Typed::new(handler)));
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

    /// How often and how fast a failing message is tried.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Messages handled at the same time. Default: 16.
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

    /// The queue for messages that were given up. Default: `dead-letters`.
    pub fn dead_letters(mut self, queue: impl Into<String>) -> Self {
        self.dead_letters = queue.into();
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

    /// The bus.
    ///
    /// # Errors
    /// [`BuildError`] with every problem: a missing transport or handler, an outbox or idempotency that could not keep its
    /// promise, handlers that ask for what the bus has not, positions that name no step, names that no broker takes.
    pub fn build(mut self) -> Result<Bus, BuildError> {
        let mut problems = Problems(Vec::new());
        let settings = self.effective(&mut problems);
        let capabilities = self.unit_of_work.as_ref().map(|unit| unit.capabilities());
        self.check_commit_timing(&settings, capabilities.as_ref(), &mut problems);
        self.check_handlers(capabilities.as_ref(), &mut problems);
        for name in [&self.name, &self.inbox.queue].into_iter().chain(&self.inbox.topics) {
            problems.name(checked_name(name.clone()));
        }
        let mut incoming = incoming_steps();
        for (position, step) in std::mem::take(&mut self.incoming) {
            problems.step(incoming.insert(position, step));
        }
        let mut outgoing = outgoing_steps();
        for (position, step) in std::mem::take(&mut self.outgoing) {
            problems.step(outgoing.insert(position, step));
        }
        if self.transport.is_none() {
            problems.add(
                "BRD010",
                "it has no transport",
                "call .transport(..), for instance with SqlQueue or RabbitMq",
            );
        }
        let (Some(transport), Some(settings), true) = (self.transport, settings, problems.0.is_empty())
        else {
            return Err(BuildError { bus: self.name, problems: problems.0 });
        };
        Ok(Bus(Arc::new(BusCore {
            attempts: capabilities
                .and_then(|unit| unit.attempts)
                .unwrap_or_else(|| Arc::new(MemoryAttempts::default())),
            name: self.name,
            settings,
            inbox: self.inbox,
            transport,
            incoming,
            outgoing,
            handlers: self.handlers,
            routes: self.routes,
            states: self.states,
            unit_of_work: self.unit_of_work,
            outbox: self.outbox,
            idempotency: self.idempotency,
            policy: self.policy,
            codec: self.codec,
            sender: OnceCell::new(),
        })))
    }

    /// Configuration over code, remembering who said what.
    fn effective(&mut self, problems: &mut Problems) -> Option<Settings> {
        let config = std::mem::take(&mut self.config);
        let code = self.unit_of_work.as_ref().and_then(|unit| unit.commit_with_transaction());
        let mut origins = BTreeMap::new();
        let configured = config.origins.get("commit_with_transaction").cloned();
        let origin = match (config.commit_with_transaction, code) {
            (Some(_), _) => configured.unwrap_or_else(|| "configuration".to_owned()),
            (None, Some(_)) => "code".to_owned(),
            (None, None) => "default".to_owned(),
        };
        origins.insert("commit_with_transaction", origin);
        if let Some(parallelism) = config.parallelism {
            self.parallelism = parallelism.get();
        }
        self.inbox.prefetch = config.prefetch.unwrap_or(self.inbox.prefetch);
        self.policy.attempts_max = config.attempts_max.unwrap_or(self.policy.attempts_max);
        let millis = |value: Option<u64>, code: Duration| value.map_or(code, Duration::from_millis);
        self.policy.pause = millis(config.retry_pause_ms, self.policy.pause);
        self.policy.pause_max = millis(config.retry_pause_max_ms, self.policy.pause_max);
        if self.policy.attempts_max == 0 || self.parallelism == 0 || self.inbox.prefetch == 0 {
            problems.add(
                "BRD019",
                "attempts_max, parallelism and prefetch must be at least 1",
                "raise the one that is 0, or leave it out for its default",
            );
        }
        let dead_letters =
            Destination::queue(config.dead_letter_queue.unwrap_or(std::mem::take(&mut self.dead_letters)));
        Some(Settings {
            commit_with_transaction: config.commit_with_transaction.or(code).unwrap_or(false),
            parallelism: self.parallelism,
            stop_grace: millis(config.stop_grace_ms, self.stop_grace),
            dead_letters: problems.name(dead_letters)?,
            origins,
        })
    }

    fn check_commit_timing(
        &self,
        settings: &Option<Settings>,
        capabilities: Option<&Capabilities>,
        problems: &mut Problems,
    ) {
        let parts = match (self.outbox.is_some(), self.idempotency.is_some()) {
            (false, false) => return,
            (true, false) => "an outbox",
            (false, true) => "idempotency",
            (true, true) => "an outbox and idempotency",
        };
        if capabilities.and_then(|unit| unit.database).is_none() {
            problems.add(
                "BRD013",
                format!("it has {parts}, but no SQL unit of work whose transaction could hold the rows"),
                "call .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))",
            );
        } else if let Some(settings) = settings
            && !settings.commit_with_transaction
        {
            let origin = &settings.origins["commit_with_transaction"];
            problems.add(
                "BRD012",
                format!(
                    "it has {parts}, but commit_with_transaction is false ({origin}): the unit of work would commit before the \
                     rows are written, and a crash in between would lose them"
                ),
                format!(
                    "set [bus.{}] commit_with_transaction = true, or call .commit_with_transaction(true) on its unit of work",
                    self.name
                ),
            );
        }
    }

    fn check_handlers(&self, capabilities: Option<&Capabilities>, problems: &mut Problems) {
        if self.handlers.is_empty() {
            problems.add(
                "BRD011",
                "it has no handler",
                "call .handler(..); a program that only sends uses Sender or Outbox",
            );
        }
        let provided = Provided { states: &self.states, unit_of_work: capabilities };
        for (name, handler) in self.handlers.iter() {
            for missing in handler.check(&provided).err().unwrap_or_default() {
                problems.add(
                    "BRD014",
                    format!("handler {} of message {name:?}", handler.type_name()),
                    missing,
                );
            }
        }
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem { code, what: what.into(), remedy: remedy.into() });
    }

    fn name<T>(&mut self, checked: Result<T, DestinationError>) -> Option<T> {
        checked
            .map_err(|error| self.add("BRD016", error.to_string(), "choose a name that every broker takes"))
            .ok()
    }

    fn step(&mut self, inserted: Result<(), crate::pipeline::UnknownStep>) {
        if let Err(error) = inserted {
            self.add(
                "BRD015",
                error.to_string(),
                "name one of the steps in Position::Before or Position::After",
            );
        }
    }
}
