//! The bus: what puts transport, unit of work, pipeline and handlers together, and runs them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use crate::{
    background::Background,
    batch::{self, BatchPolicy},
    codec::Codec,
    context::States,
    destination::Destination,
    error::{Error, Result},
    health::{Health, Vitals},
    idempotency::{DuplicatePolicy, SqlIdempotency},
    outbox::SqlOutbox,
    pipeline::{IncomingContext, OutgoingContext, Pipeline},
    request::Waiting,
    retry::{AttemptStore, FailFast, RetryPolicy},
    routing::{Handlers, Routes},
    schedule::Scheduler,
    sender::Sender,
    store::{idempotency::RecordStore, results::ResultStore},
    subscriptions::Subscriptions,
    transport::{Delivery, Inbox, OutgoingRow, Transport},
    unit_of_work::{Batches, UnitOfWork},
};

mod builder;
mod burial;
mod requesting;
mod run;
mod scheduling;
mod sending;
pub(crate) use builder::Sagas;
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
    /// Messages handled at the same time; with batches, batches.
    pub parallelism: usize,
    /// How messages are handled together; `None` is one by one.
    pub batch: Option<BatchPolicy>,
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
    /// Those of messages whose attempts are used up.
    pub(crate) failed_handlers: Handlers,
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
    pub(crate) records: Option<Arc<dyn RecordStore>>,
    pub(crate) results: Option<Arc<dyn ResultStore>>,
    pub(crate) waiting: Option<Arc<Waiting>>,
    pub(crate) policy: RetryPolicy,
    pub(crate) fail_fast: FailFast,
    pub(crate) sagas: Sagas,
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
        batch::alone(&self.0, delivery).await.result
    }

    /// Handles deliveries as one batch and settles each; one by one when the bus has no batches. What [`Bus::run_until`] does
    /// with what it receives together. What became of each, in the order of the deliveries.
    ///
    /// Dropping the future rolls everything back that was not committed and leaves those deliveries unsettled.
    pub async fn handle_batch(&self, deliveries: Vec<Delivery>) -> Vec<Result<()>> {
        batch::run(&self.0, deliveries).await.into_iter().map(|end| end.result).collect()
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

    /// How units of work for several messages begin; `None` when there is no unit of work.
    pub(crate) fn batches(&self) -> Option<Arc<dyn Batches>> {
        self.unit_of_work.as_ref()?.batches()
    }

    /// After a commit that may have written to the outbox.
    pub(crate) fn ring(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.ring();
        }
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
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("name", &self.0.name)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
