//! The bus: what puts transport, unit of work, pipeline and handlers together, and runs them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use crate::{
    background::Background,
    codec::Codec,
    context::States,
    dead_letter::dead_letter,
    destination::Destination,
    error::{Error, Result},
    health::{Health, Vitals},
    idempotency::{DuplicatePolicy, SqlIdempotency},
    incoming::Incoming,
    outbox::SqlOutbox,
    pipeline::{IncomingContext, OutgoingContext, Pipeline},
    retry::{AttemptStore, RetryPolicy},
    routing::{Handlers, Routes},
    schedule::Scheduler,
    sender::Sender,
    subscriptions::Subscriptions,
    transport::{Delivery, Inbox, OutgoingRow, Transport},
    unit_of_work::UnitOfWork,
};

mod builder;
mod run;
mod scheduling;
mod sending;
pub use builder::{BuildError, BusBuilder, Problem, WorkerSettings};
pub use run::BusError;

/// Receives messages and handles them. Built by [`Bus::builder`], run by [`Bus::run_until`].
#[derive(Clone)]
pub struct Bus(Arc<BusCore>);

/// The settings that are in force, whoever set them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// See the table of commit timings.
    pub commit_with_transaction: bool,
    /// Messages handled at the same time.
    pub parallelism: usize,
    /// How long running handlers may take when the bus stops.
    pub stop_grace: Duration,
    /// Whether it only sends.
    pub send_only: bool,
    /// How it receives.
    pub worker: WorkerSettings,
    /// Where messages go that were given up.
    pub dead_letters: Destination,
    /// Who set what: `code`, `default`, a file with line, or a variable.
    pub origins: BTreeMap<&'static str, String>,
}

pub(crate) struct BusCore {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) inbox: Inbox,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) incoming: Pipeline<IncomingContext>,
    pub(crate) outgoing: Pipeline<OutgoingContext>,
    pub(crate) handlers: Handlers,
    pub(crate) routes: Routes,
    pub(crate) subscriptions: Subscriptions,
    /// What it subscribes to at its start, in a store that all share.
    start_topics: Vec<String>,
    pub(crate) states: States,
    pub(crate) unit_of_work: Option<Arc<dyn UnitOfWork>>,
    pub(crate) outbox: Option<SqlOutbox>,
    pub(crate) idempotency: Option<SqlIdempotency>,
    pub(crate) schedule: Option<Scheduler>,
    pub(crate) attempts: Arc<dyn AttemptStore>,
    pub(crate) policy: RetryPolicy,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) background: Vec<Arc<dyn Background>>,
    pub(crate) vitals: Vitals,
    sender: OnceCell<Sender>,
}

impl Bus {
    /// Starts to assemble the bus `name`. The name is its queue unless another one is given, its consumer group on Kafka,
    /// and the scope of its idempotency records: keep it stable.
    pub fn builder(name: impl Into<String>) -> BusBuilder {
        BusBuilder::new(name.into())
    }

    /// The settings that are in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The bus's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How it is right now. Asks no server and waits for nothing: fit for a health check that is called often.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.vitals.snapshot(&self.0.name, self.0.settings.parallelism)
    }

    /// Handles one delivery and settles it. What [`Bus::run_until`] does with each delivery it receives; for tests and
    /// for programs that receive by themselves.
    ///
    /// # Errors
    /// Why the message failed; the delivery is settled all the same. Dropping the future rolls everything back and leaves
    /// the delivery unsettled.
    pub async fn handle(&self, delivery: Delivery) -> Result<()> {
        match Incoming::read(&delivery) {
            Ok(incoming) => {
                let mut cx = IncomingContext::new(Arc::clone(&self.0), incoming, delivery.settlement);
                self.0.incoming.run(&mut cx).await
            }
            Err(cause) => {
                self.0.bury_unreadable(delivery, &cause).await;
                Err(Error::permanent(cause))
            }
        }
    }
}

impl BusCore {
    /// Whether handlers may send: with idempotency and no outbox a redelivery would be skipped and its messages lost.
    pub(crate) fn sending_allowed(&self) -> Result<()> {
        let skips = self.idempotency.is_some_and(|idempotency| idempotency.policy == DuplicatePolicy::Skip);
        if skips && self.outbox.is_none() {
            return Err(Error::permanent(format!(
                "bus {:?} has idempotency and no outbox: a message sent by this handler could be lost, because a crash after \
                 the commit makes the redelivery a duplicate that is skipped. Add .outbox(SqlOutbox::new()), or use \
                 DuplicatePolicy::Invoke",
                self.name
            )));
        }
        Ok(())
    }

    async fn sender(&self) -> Result<&Sender> {
        let connected =
            self.sender.get_or_try_init(|| Sender::connect(self.transport.as_ref(), self.name.clone()));
        Ok(connected.await?)
    }

    /// Sends messages that no outbox carries.
    pub(crate) async fn send_all(&self, rows: &[OutgoingRow]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.sender().await?.send_rows(rows).await
    }

    /// Moves a message to the dead letters.
    pub(crate) async fn bury(&self, message: &Incoming, error: &Error, attempts: u32) -> Result<()> {
        tracing::error!(
            bus = self.name, id = %message.id, message = message.name, attempts, %error,
            dead_letters = %self.settings.dead_letters, "giving a message up"
        );
        let letter = dead_letter(message, &self.name, &self.settings.dead_letters, error, attempts);
        self.send_all(&[letter]).await
    }

    /// A delivery that cannot even be identified.
    pub(crate) async fn bury_unreadable(&self, delivery: Delivery, cause: &str) {
        let message = Incoming {
            id: uuid::Uuid::now_v7(),
            name: delivery.headers.get(crate::headers::TYPE).unwrap_or_default().to_owned(),
            headers: delivery.headers.clone(),
            body: delivery.body.clone(),
            source: delivery.source.clone(),
            repeat: delivery.repeat,
        };
        let settled = match self.bury(&message, &Error::permanent(cause), 0).await {
            Ok(()) => delivery.settlement.ack().await,
            Err(error) => {
                tracing::error!(bus = self.name, %error, "sending a dead letter");
                delivery.settlement.nack(self.policy.pause_max).await
            }
        };
        if let Err(error) = settled {
            tracing::error!(bus = self.name, %error, "settling a message that cannot be identified");
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("name", &self.0.name)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
