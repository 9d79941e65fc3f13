//! Units of work of a bus over several databases: one distributed transaction for each message.
//!
//! Begun by the unit-of-work step like any other. The transaction of the message is the home: business rows, outbox rows and the
//! idempotency record commit with the decision, by the same text. A branch is opened when a handler asks for it, and who takes part
//! is written down before the first one is asked to prepare; a message that asks for none costs what it costs without all this.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Pool;

use super::{
    branch::{SqlResource, TwoPhase},
    enlisted::{Branching, Enlistment, Joined, Known, called, health},
    opened::{MessageHome, Opened},
};
use crate::{
    distributed::{
        Coordinator, Decision, DistributedError, DistributedUnitOfWork, Label, Resource as _, home::Home as _,
    },
    error::{Disposition, Error, Result},
    headers,
    incoming::Incoming,
    store::{
        backend::Recorded,
        connection::UnitConnection,
        statement::{Opening, Statement, Writes},
        unit::{SqlUnit, SqlUnitOfWork, bounded},
    },
    transaction::TransactionContext,
    unit_of_work::{Begun, BranchOf, Capabilities, CommitError, Unit, UnitOfWork},
};

/// Units of work over several databases, for [`BusBuilder::unit_of_work`](crate::BusBuilder::unit_of_work).
///
/// Handlers have the home database as [`Context::unit_of_work`](crate::Context::unit_of_work), and each other one as
/// [`Context::branch`](crate::Context::branch) or as an argument of type [`Branch`](crate::distributed::Branch). All of them commit,
/// together with outbox rows and idempotency record, or none does. The bus recovers what any process on the log left behind.
///
/// SQLite cannot be the home: it has one writer, and that is the transaction of the message while the log has to be written.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use barid::{Bus, Context, Memory, Message, Result, SqlIdempotency, SqlOutbox};
/// use barid::distributed::{Coordinator, DistributedUnits, ResourceId, Settings, SqlDecisionLog, SqlResource};
/// use sqlx::{MySql, MySqlPool, PgPool, Postgres};
///
/// #[derive(serde::Serialize, serde::Deserialize, Message)]
/// #[message(name = "orders.place")]
/// struct PlaceOrder { order_id: i64, amount: i64 }
///
/// async fn place(cmd: PlaceOrder, cx: Context) -> Result<()> {
///     let mut orders = cx.unit_of_work::<Postgres>().await?;
///     sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(cmd.order_id).execute(&mut *orders).await?;
///     let mut billing = cx.branch::<MySql>("billing").await?;
///     sqlx::query("INSERT INTO invoice (id, amount) VALUES (?, ?)")
///         .bind(cmd.order_id).bind(cmd.amount).execute(&mut *billing).await?;
///     Ok(())
/// }
///
/// let orders = PgPool::connect("postgres://localhost/orders").await?;
/// let log = Arc::new(SqlDecisionLog::new(PgPool::connect("postgres://localhost/orders").await?));
/// let billing = SqlResource::new(ResourceId::new("billing")?, MySqlPool::connect("mysql://localhost/billing").await?);
/// let coordinator = Coordinator::connect(log, [billing.clone() as _], Settings::default()).await?;
/// let bus = Bus::builder("orders")
///     .transport(Memory::new())
///     .unit_of_work(DistributedUnits::new(&coordinator, orders).branch(&billing))
///     .outbox(SqlOutbox::new())
///     .idempotency(SqlIdempotency::new())
///     .handler(place)
///     .build()?;
/// # let _ = bus; Ok(()) }
/// ```
pub struct DistributedUnits<DB: TwoPhase> {
    coordinator: Coordinator,
    home: SqlUnitOfWork<DB>,
    known: Arc<Known>,
}

impl<DB: TwoPhase> DistributedUnits<DB> {
    /// Units whose home is the database of `pool`, which must be that of the coordinator's log. Not the log's own pool, unless that
    /// has a connection for each message handled at once and as many beside them: the log is written while the units are open.
    #[must_use]
    pub fn new(coordinator: &Coordinator, pool: Pool<DB>) -> Self {
        let home = SqlUnitOfWork::new(pool).commit_with_transaction(true);
        Self { coordinator: coordinator.clone(), home, known: Arc::default() }
    }

    /// A database that handlers may ask for, under the name of the resource. Its pool needs a connection for each message handled
    /// at once. The coordinator must know it, too.
    #[must_use]
    pub fn branch<B: TwoPhase>(mut self, resource: &Arc<SqlResource<B>>) -> Self {
        let mut known: Known = Known::clone(&self.known);
        known.insert(called(resource.id()), Arc::clone(resource) as Arc<dyn Branching>);
        self.known = Arc::new(known);
        self
    }

    /// When the units commit: with the transaction context (the default here), or right after the handlers, before anything that
    /// would have to commit with them.
    #[must_use]
    pub fn commit_with_transaction(mut self, yes: bool) -> Self {
        self.home = self.home.commit_with_transaction(yes);
        self
    }

    /// That the pool leads to the database of the log: elsewhere the decision would not commit with the work.
    async fn check_home(&self) -> Result<()> {
        let select = Statement::new("SELECT id FROM dtx_coordinator WHERE one=1");
        let read = async {
            let mut connection = UnitConnection::hold(self.home.kept.acquire().await?);
            let (_, rows) = connection.alone(&select).await?;
            Ok(rows.first().map(|row| DB::id(row, 0)).transpose()?)
        };
        let id = bounded(read).await.map_err(|error| error.context("looking for the decision log"))?;
        if id == Some(self.coordinator.id().id) {
            return Ok(());
        }
        Err(Error::permanent(
            "the pool of DistributedUnits leads to another database than the log of its coordinator: the decision would not \
             commit together with the work; use the database of the log for both",
        ))
    }
}

#[async_trait]
impl<DB: TwoPhase> UnitOfWork for DistributedUnits<DB> {
    async fn begin(&self, message: &Incoming, opening: &Opening) -> Result<Begun> {
        let (home, recorded) = SqlUnit::open(&self.home.kept, opening).await?;
        let unit = |home| {
            let enlistment =
                Enlistment::new(self.coordinator.clone(), Arc::clone(&self.known), label(message));
            Box::new(DistributedUnit { home: Some(home), enlistment: Arc::new(enlistment) })
        };
        Ok(match recorded {
            Recorded::Fresh => Begun::Fresh(unit(home)),
            Recorded::Duplicate => Begun::Duplicate(unit(home)),
            Recorded::InProgress => {
                Box::pin(home.discard()).await;
                Begun::InProgress
            }
        })
    }

    async fn ready(&self) -> Result<()> {
        self.home.ready().await?;
        self.check_home().await?;
        for (name, known) in self.known.iter() {
            if !self.coordinator.knows(known.resource().id()) {
                return Err(Error::permanent(format!(
                    "the coordinator does not know branch {name:?}, so nobody could recover it: give it to Coordinator::connect, too"
                )));
            }
            let health = health(known).await;
            if !health.healthy {
                return Err(Error::new(format!("branch {name:?} cannot take part: {}", health.detail)));
            }
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let branch = |(name, known): (&String, &Arc<dyn Branching>)| BranchOf {
            name: name.clone(),
            connection: known.connection(),
        };
        Capabilities {
            branches: self.known.iter().map(branch).collect(),
            background: Some(Arc::new(self.coordinator.clone())),
            ..self.home.capabilities()
        }
    }

    fn commit_with_transaction(&self) -> Option<bool> {
        UnitOfWork::commit_with_transaction(&self.home)
    }
}

/// What people see of it in the log: the message's name, and what it belongs to.
fn label(message: &Incoming) -> Label {
    let correlation = message.headers.get(headers::CORRELATION_ID);
    Label {
        kind: Some(message.name.clone()),
        correlation_id: Some(correlation.map_or_else(|| message.id.to_string(), Into::into)),
        ..Label::default()
    }
}

/// The unit of work of one message.
struct DistributedUnit<DB: TwoPhase> {
    /// `None` once it has ended.
    home: Option<SqlUnit<DB>>,
    enlistment: Arc<Enlistment>,
}

#[async_trait]
impl<DB: TwoPhase> Unit for DistributedUnit<DB> {
    fn stage(&mut self, writes: Writes) -> Result<()> {
        let home = self.home.as_mut();
        home.ok_or_else(|| Error::new("the unit of work has ended"))?.stage(writes)
    }

    fn doomed(&self) -> Option<Error> {
        self.home.as_ref().and_then(Unit::doomed)
    }

    fn home(&mut self) -> Option<&mut dyn Unit> {
        self.home.as_mut().map(|home| home as &mut dyn Unit)
    }

    fn show(&self, transaction: &TransactionContext) {
        transaction.insert(Shown(Arc::clone(&self.enlistment)));
    }

    async fn commit(&mut self) -> Result<(), CommitError> {
        let joined = self.enlistment.close().await.map_err(CommitError::Failed)?;
        if joined.is_empty() {
            let home = self.home.as_mut();
            return home
                .ok_or_else(|| CommitError::Failed(Error::new("the unit of work has ended")))?
                .commit()
                .await;
        }
        if let Some(cause) = self.doomed() {
            self.enlistment.roll_back(joined).await.map_err(CommitError::Failed)?;
            return Err(CommitError::Failed(cause));
        }
        let home = MessageHome::new(self.home.take());
        let ended = Box::pin(decide(&self.enlistment, home.clone(), joined)).await;
        match (ended, home.refused().await) {
            (Err(CommitError::Failed(_)), Some(refused)) => Err(CommitError::Failed(refused)),
            (ended, _) => ended,
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        let branches = match self.enlistment.close().await {
            Ok(joined) => self.enlistment.roll_back(joined).await,
            Err(error) => Err(error),
        };
        let home = match &mut self.home {
            Some(home) => home.rollback().await,
            None => Ok(()),
        };
        home.and(branches)
    }

    async fn close(&mut self) -> Result<()> {
        match &mut self.home {
            Some(home) => home.close().await,
            None => Ok(()),
        }
    }
}

/// Writes down who takes part, prepares them, and commits home with the decision.
async fn decide<DB: TwoPhase>(
    enlistment: &Enlistment,
    home: MessageHome<DB>,
    joined: Joined,
) -> Result<(), CommitError> {
    let Enlistment { coordinator, gid, .. } = enlistment;
    let mut transaction =
        DistributedUnitOfWork::new(coordinator).with_id(*gid).label(enlistment.label.clone());
    let begun = async {
        transaction.register_home(home.clone())?;
        for (name, participant) in &joined {
            transaction.register_participant(name, Opened(Arc::clone(participant)))?;
        }
        transaction.begin().await
    };
    if let Err(error) = begun.await {
        // Nobody was asked to prepare, and nobody will be.
        for answer in [home.rollback().await, enlistment.roll_back(joined).await] {
            if let Err(error) = answer {
                tracing::warn!(target: "transactions", %gid, %error, "rolling back");
            }
        }
        let disposition = match error {
            // Nobody tried.
            DistributedError::Unavailable(_) => Disposition::Later,
            _ => Disposition::Retry,
        };
        return Err(CommitError::Failed(Error::from(error).with(disposition)));
    }
    match transaction.commit().await {
        Ok(report) => {
            if !report.pending.is_empty() {
                tracing::info!(target: "transactions", %gid, pending = report.pending.len(), "decided, recovery completes it");
            }
            Ok(())
        }
        Err(DistributedError::HeuristicMixed { decision: Decision::Commit, .. }) => {
            // Reported and kept in the log by whoever found it; the message itself is done, and must not be done again.
            Ok(())
        }
        Err(error @ (DistributedError::InDoubt { .. } | DistributedError::Panicked { .. })) => {
            Err(CommitError::Unknown(error.into()))
        }
        Err(error) => Err(CommitError::Failed(error.into())),
    }
}

/// A panic or a cancelled task: connections on which something is open are closed.
impl<DB: TwoPhase> Drop for DistributedUnit<DB> {
    fn drop(&mut self) {
        self.enlistment.abandon();
    }
}

/// What handlers find in the context of their message.
pub(crate) struct Shown(pub(crate) Arc<Enlistment>);
