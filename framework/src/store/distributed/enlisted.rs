//! The branches of one message: opened when a handler first asks for them, taken away before the message is completed.
//!
//! Filled by [`Context::branch`](crate::Context::branch) and [`Context::enlist`](crate::Context::enlist), emptied by the unit of
//! work of the message. Until then nothing of a branch is durable anywhere: a process that dies leaves nothing behind.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Mutex;

use super::{
    branch::{SqlBranch, SqlResource, TwoPhase},
    guard::BranchGuard,
};
use crate::{
    distributed::{
        BranchId, Coordinator, Gid, Health, Label, Resource, ResourceId, RmError, TransactionParticipant,
    },
    error::{Error, Result},
    limits,
};

/// A database that handlers may ask for, its type forgotten.
pub(crate) trait Branching: Send + Sync {
    fn resource(&self) -> &dyn Resource;
    fn connection(&self) -> TypeId;
    fn database(&self) -> &'static str;
    /// A branch that is not open, as what takes part and as what handlers use.
    fn branch(self: Arc<Self>) -> (Arc<dyn TransactionParticipant>, Arc<dyn Any + Send + Sync>);
}

impl<DB: TwoPhase> Branching for SqlResource<DB> {
    fn resource(&self) -> &dyn Resource {
        self
    }

    fn connection(&self) -> TypeId {
        TypeId::of::<DB>()
    }

    fn database(&self) -> &'static str {
        DB::DISPLAY
    }

    fn branch(self: Arc<Self>) -> (Arc<dyn TransactionParticipant>, Arc<dyn Any + Send + Sync>) {
        let branch = SqlResource::branch(&self);
        (Arc::new(branch.clone()), Arc::new(branch))
    }
}

/// The databases that handlers may ask for, by name.
pub(crate) type Known = BTreeMap<String, Arc<dyn Branching>>;

/// One that takes part.
struct Enlisted {
    name: String,
    participant: Arc<dyn TransactionParticipant>,
    /// The [`SqlBranch`] that handlers use.
    branch: Option<Arc<dyn Any + Send + Sync>>,
}

/// Who takes part in the transaction of one message.
pub(crate) struct Enlistment {
    pub(super) coordinator: Coordinator,
    pub(super) gid: Gid,
    pub(super) label: Label,
    known: Arc<Known>,
    open: Mutex<Vec<Enlisted>>,
    /// Set before the message is completed: from then on nobody joins.
    closed: AtomicBool,
}

/// Who has joined, by place.
pub(super) type Joined = Vec<(String, Arc<dyn TransactionParticipant>)>;

impl Enlistment {
    pub(super) fn new(coordinator: Coordinator, known: Arc<Known>, label: Label) -> Self {
        let (open, closed) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        Self { coordinator, gid: Gid::fresh(), label, known, open, closed }
    }

    pub(super) fn branch_id(&self, place: usize) -> BranchId {
        // There are no more branches than that.
        let ordinal = u16::try_from(place).unwrap_or(u16::MAX);
        BranchId { coordinator: self.coordinator.id(), gid: self.gid, ordinal }
    }

    /// The name of the first branch on this kind of connection.
    pub(crate) fn only(&self, connection: TypeId) -> Option<String> {
        let mut known = self.known.iter().filter(|(_, known)| known.connection() == connection);
        known.next().map(|(name, _)| name.clone())
    }

    /// The connection of a branch, which is opened when it is the first time.
    pub(crate) async fn branch<DB: TwoPhase>(&self, name: &str) -> Result<BranchGuard<DB>> {
        let Some(known) = self.known.get(name) else {
            let names: Vec<_> = self.known.keys().map(String::as_str).collect();
            return Err(Error::permanent(format!(
                "no branch of the unit of work is called {name:?}: there is {}; give the database to DistributedUnits::branch",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        };
        if known.connection() != TypeId::of::<DB>() {
            return Err(Error::permanent(format!(
                "branch {name:?} is on {}, not on {}",
                known.database(),
                DB::DISPLAY
            )));
        }
        let mut open = self.open.lock().await;
        if let Some(found) = open.iter().find(|enlisted| enlisted.name == name) {
            let branch = found.branch.as_ref().and_then(|branch| branch.downcast_ref::<SqlBranch<DB>>());
            let taken = || Error::new(format!("{name:?} was enlisted as something else than a branch"));
            return branch.ok_or_else(taken)?.connection_now();
        }
        let (participant, branch) = Arc::clone(known).branch();
        self.join(&mut open, name.to_owned(), participant, Some(Arc::clone(&branch))).await?;
        let branch = branch.downcast_ref::<SqlBranch<DB>>();
        branch.ok_or_else(|| Error::new("a branch of another type"))?.connection_now()
    }

    /// Lets somebody else take part.
    pub(crate) async fn enlist(
        &self,
        name: String,
        participant: Arc<dyn TransactionParticipant>,
    ) -> Result<()> {
        use crate::distributed::core::BranchKind;
        if participant.kind() == BranchKind::Last {
            return Err(Error::permanent(format!(
                "participant {name:?} can only commit, and the transaction of the message is the commit point already"
            )));
        }
        let resource = participant.resource_id();
        if !self.coordinator.knows(resource) {
            return Err(Error::permanent(format!(
                "participant {name:?} is on resource {resource}, which the coordinator does not know: give it to Coordinator::connect"
            )));
        }
        let mut open = self.open.lock().await;
        if open.iter().any(|enlisted| enlisted.name == name) {
            return Err(Error::new(format!("a participant called {name:?} takes part already")));
        }
        self.join(&mut open, name, participant, None).await
    }

    async fn join(
        &self,
        open: &mut Vec<Enlisted>,
        name: String,
        participant: Arc<dyn TransactionParticipant>,
        branch: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<()> {
        if open.len() >= limits::DISTRIBUTED_BRANCHES_MAX {
            let most = limits::DISTRIBUTED_BRANCHES_MAX;
            return Err(Error::permanent(format!("a transaction has at most {most} branches")));
        }
        let over = || Error::new("the unit of work of this message has ended: nobody can join it");
        if self.closed.load(Ordering::Acquire) {
            return Err(over());
        }
        let begun = in_time(participant.begin(&self.branch_id(open.len()))).await;
        begun.map_err(|error| Error::new(format!("branch {name:?} cannot begin: {error}")))?;
        if self.closed.load(Ordering::Acquire) {
            // Dropped with its connection, which rolls it back.
            return Err(over());
        }
        open.push(Enlisted { name, participant, branch });
        Ok(())
    }

    /// Takes everybody who has joined. Nobody can from here on.
    pub(super) async fn close(&self) -> Result<Joined> {
        self.closed.store(true, Ordering::Release);
        let open = tokio::time::timeout(limits::GUARD_WAIT, self.open.lock()).await;
        let mut open = open.map_err(|_| {
            Error::new("a handler still opens a branch of the unit of work: await that before it returns")
        })?;
        Ok(open.drain(..).map(|enlisted| (enlisted.name, enlisted.participant)).collect())
    }

    /// Rolls back whoever had joined.
    pub(super) async fn roll_back(&self, joined: Joined) -> Result<()> {
        let each = joined.iter().enumerate().map(|(place, (name, participant))| async move {
            let answer = in_time(participant.rollback(&self.branch_id(place))).await;
            answer.map(drop).map_err(|error| Error::new(format!("branch {name:?}: {error}")))
        });
        futures::future::join_all(each).await.into_iter().collect()
    }

    /// Drops whoever has joined, which rolls back what is open there.
    pub(super) fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        if let Ok(mut open) = self.open.try_lock() {
            open.clear();
        }
    }
}

/// What is not answered in time.
async fn in_time<T>(call: impl Future<Output = Result<T, RmError>>) -> Result<T, RmError> {
    let answer = tokio::time::timeout(limits::CALL_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| Err(RmError::Unknown(format!("no answer within {:?}", limits::CALL_TIMEOUT))))
}

/// Whether a database can take part now.
pub(super) async fn health(known: &Arc<dyn Branching>) -> Health {
    let asked = std::time::Instant::now();
    let answer = tokio::time::timeout(limits::CALL_TIMEOUT, known.resource().health()).await;
    let silent = |_| Health {
        healthy: false,
        detail: format!("no answer within {:?}", limits::CALL_TIMEOUT),
        latency: asked.elapsed(),
    };
    answer.unwrap_or_else(silent)
}

/// The name of a resource, as handlers ask for it.
pub(super) fn called(resource: &ResourceId) -> String {
    resource.as_str().to_owned()
}
