//! The contract of [`TransactionParticipant`] and [`Resource`] as a suite that runs over any of them.
//!
//! Barid's own participants run it, and so should those of a program. It wants a real database: most of what it asks is what becomes of
//! a branch when the process that began it is gone. Every case is run, and what was broken is said for each.
//!
//! ```no_run
//! use std::sync::Arc;
//! use barid::{Result, distributed::*, event_store::*, testing::participants::{Subject, Suite}};
//!
//! struct Staged { store: EventStore<sqlx::Sqlite>, resource: Arc<EventStoreResource<sqlx::Sqlite>> }
//!
//! #[async_trait::async_trait]
//! impl Subject for Staged {
//!     type Participant = EventStoreParticipant<sqlx::Sqlite>;
//!     fn participant(&self) -> Self::Participant {
//!         self.resource.participant()
//!     }
//!     fn resource(&self) -> Arc<dyn Resource> {
//!         self.resource.clone()
//!     }
//!     async fn work(&self, branch: &Self::Participant, key: u64) -> Result<()> {
//!         let append = StagedAppend::new(StreamName::of("thing", key)?, Expected::Any);
//!         Ok(branch.add_events(append.event(NewEvent::raw("things.done", "{}"))).await?)
//!     }
//!     async fn fail(&self, branch: &Self::Participant) -> Result<()> {
//!         let never = StagedAppend::new(StreamName::new("nothing")?, Expected::Version(7));
//!         Ok(branch.add_events(never).await?)
//!     }
//!     async fn happened(&self, key: u64) -> Result<u64> {
//!         Ok(self.store.version(&StreamName::of("thing", key)?).await?)
//!     }
//! }
//!
//! # async fn doc(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
//! let store = EventStore::new(pool);
//! let resource = EventStoreResource::new(ResourceId::new("things")?, store.clone());
//! Suite::new(Staged { store, resource }).run().await.into_result()?;
//! # Ok(()) }
//! ```

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::{
    distributed::{Resource, TransactionParticipant, core::BranchKind},
    error::{Error, Result},
};

mod bench;
mod last;
mod listing;
mod phases;
mod processes;

use bench::Bench;

/// How long one case may take before it counts as broken: the longest waits of the databases for locks are in it several times.
const CASE_BOUND: Duration = Duration::from_secs(180);

/// What the suite is run over: participants, and what can be done in them.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// One branch of one transaction.
    type Participant: TransactionParticipant;

    /// A participant for a transaction that has not begun.
    fn participant(&self) -> Self::Participant;

    /// The database behind it, as a process knows it that has begun none of the transactions.
    fn resource(&self) -> Arc<dyn Resource>;

    /// Does something in a branch that has begun, which is there when the branch has committed. Called once a key; other keys must
    /// not be in its way.
    ///
    /// # Errors
    /// When it cannot be done; the case is broken then.
    async fn work(&self, branch: &Self::Participant, key: u64) -> Result<()>;

    /// Lets something fail in a branch that has begun: it must not commit any more.
    ///
    /// # Errors
    /// What failed. The suite ignores it, as a careless caller would.
    async fn fail(&self, branch: &Self::Participant) -> Result<()>;

    /// How often the work of a key is there, for everybody.
    ///
    /// # Errors
    /// When nobody can say; the case is broken then.
    async fn happened(&self, key: u64) -> Result<u64>;
}

type EndSessions = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The suite, over one subject.
#[must_use = "nothing is checked before it runs"]
pub struct Suite<S> {
    subject: S,
    transactions: u64,
    at_once: usize,
    end_sessions: Option<EndSessions>,
}

impl<S: Subject> Suite<S> {
    /// All cases over `subject`, with 100 concurrent transactions, 16 at the same time.
    pub fn new(subject: S) -> Self {
        Self { subject, transactions: 100, at_once: 16, end_sessions: None }
    }

    /// How many transactions there are in the case of many, and how many of them at the same time. A database has to have room for
    /// so many prepared ones, and the pool for their connections.
    pub fn transactions(mut self, all: u64, at_once: usize) -> Self {
        (self.transactions, self.at_once) = (all, at_once.max(1));
        self
    }

    /// What ends the sessions that the participants have in their database, as a restart of its server would. Without it that case
    /// is left out, and the report says so.
    pub fn end_sessions<Fut>(mut self, end: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.end_sessions = Some(Box::new(move || Box::pin(end())));
        self
    }

    /// Runs all cases, one after the other. Needs a runtime of tokio.
    pub async fn run(self) -> Report {
        let bench = Bench::new(self);
        let mut report = Report::default();
        match bench.kind() {
            BranchKind::TwoPhase => {
                phases::cases(&bench, &mut report).await;
                processes::cases(&bench, &mut report).await;
                listing::cases(&bench, &mut report).await;
            }
            BranchKind::Last => last::cases(&bench, &mut report).await,
        }
        report
    }
}

/// What the suite found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a report that nobody looks at finds nothing"]
pub struct Report {
    /// The cases in which the contract was kept.
    pub kept: Vec<&'static str>,
    /// The cases in which it was not, and what happened.
    pub broken: Vec<(&'static str, String)>,
    /// The cases that were not run, and why.
    pub left_out: Vec<(&'static str, &'static str)>,
}

impl Report {
    /// Ok when nothing was broken.
    ///
    /// # Errors
    /// The report as text.
    pub fn into_result(self) -> Result<Self> {
        if self.broken.is_empty() { Ok(self) } else { Err(Error::new(self.to_string())) }
    }

    /// Runs one case and takes down how it went.
    async fn case<S: Subject>(
        &mut self,
        name: &'static str,
        bench: &Bench<S>,
        case: impl Future<Output = Result<(), String>>,
    ) {
        let ended = tokio::time::timeout(CASE_BOUND, case).await;
        let ended = ended.unwrap_or_else(|_| Err(format!("it did not end within {CASE_BOUND:?}")));
        match ended.and(bench.nothing_is_left().await) {
            Ok(()) => self.kept.push(name),
            Err(what) => self.broken.push((name, what)),
        }
        bench.sweep().await;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases kept, {} broken", self.kept.len(), self.broken.len())?;
        for (case, what) in &self.broken {
            write!(f, "\n  {case}: {what}")?;
        }
        for (case, why) in &self.left_out {
            write!(f, "\n  left out: {case}: {why}")?;
        }
        Ok(())
    }
}
