//! The other databases of a handler: branches of the distributed transaction of its message.

use std::{any::TypeId, fmt, marker::PhantomData, sync::Arc};

use super::Context;
use crate::{
    distributed::{BranchGuard, TransactionParticipant},
    error::{Error, Result},
    handler::{FromContext, Provided},
    store::distributed::{branch::TwoPhase, bus::Shown, enlisted::Enlistment},
};

impl Context {
    /// The connection of another database that commits and rolls back together with the unit of work of the message. `name` is that
    /// of its resource; the branch is opened when the first handler of the message asks for it. Bind it before use, and drop it
    /// before the handler returns: `let mut billing = cx.branch::<MySql>("billing").await?;`.
    ///
    /// # Errors
    /// When the bus's unit of work is no [`DistributedUnits`](crate::distributed::DistributedUnits) or has no branch of this name on
    /// this kind of database, when another guard of it is alive, or when the database does not answer.
    pub async fn branch<DB: TwoPhase>(&self, name: &str) -> Result<BranchGuard<DB>> {
        self.enlistment()?.branch(name).await
    }

    /// Lets something else take part in the distributed transaction of the message: an event store, closures, a participant of your
    /// own. It is begun at once, asked to prepare with the branches, and told how the transaction ends.
    ///
    /// # Errors
    /// When the bus's unit of work is not distributed, the coordinator does not know the participant's resource, its name is taken,
    /// it cannot be prepared, or it does not begin.
    pub async fn enlist(
        &self,
        name: impl Into<String>,
        participant: impl TransactionParticipant,
    ) -> Result<()> {
        self.enlistment()?.enlist(name.into(), Arc::new(participant)).await
    }

    fn enlistment(&self) -> Result<Arc<Enlistment>> {
        let shown = self.transaction().get::<Shown>();
        shown.map(|shown| Arc::clone(&shown.0)).ok_or_else(|| {
            Error::permanent(format!(
                "the unit of work of bus {:?} is not distributed: call .unit_of_work(DistributedUnits::new(..).branch(..))",
                self.bus()
            ))
        })
    }
}

/// The only branch on this kind of database, as an argument of a handler. With several of one kind use [`Context::branch`].
///
/// ```
/// # use barid::{Context, Message, Result, distributed::Branch};
/// # use sqlx::Postgres;
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.place")]
/// # struct PlaceOrder { order_id: i64 }
/// async fn place(cmd: PlaceOrder, billing: Branch<Postgres>) -> Result<()> {
///     let mut db = billing.connection().await?;
///     sqlx::query("INSERT INTO invoice (id) VALUES ($1)").bind(cmd.order_id).execute(&mut *db).await?;
///     Ok(())
/// }
/// ```
pub struct Branch<DB: TwoPhase> {
    context: Context,
    name: String,
    database: PhantomData<fn() -> DB>,
}

impl<DB: TwoPhase> Branch<DB> {
    /// The connection. See [`Context::branch`].
    ///
    /// # Errors
    /// When another guard of it is alive, the unit of work has ended, or the database does not answer.
    pub async fn connection(&self) -> Result<BranchGuard<DB>> {
        self.context.branch(&self.name).await
    }
}

impl<DB: TwoPhase> FromContext for Branch<DB> {
    fn check(provided: &Provided<'_>) -> Result<(), String> {
        let branches = provided.unit_of_work.map_or(&[][..], |unit| &unit.branches);
        let mut names = branches.iter().filter(|branch| branch.connection == TypeId::of::<DB>());
        match (names.next(), names.next()) {
            (Some(_), None) => Ok(()),
            (None, _) => Err(format!(
                "it asks for a branch on {}, the bus has none: give it to DistributedUnits::branch",
                DB::DISPLAY
            )),
            (Some(one), Some(other)) => Err(format!(
                "it asks for the branch on {}, the bus has {:?} and {:?}: ask for one by its name with cx.branch(..)",
                DB::DISPLAY,
                one.name,
                other.name
            )),
        }
    }

    fn from_context(cx: &Context) -> Result<Self> {
        let name = cx.enlistment()?.only(TypeId::of::<DB>());
        let name = name.ok_or_else(|| Error::permanent(format!("no branch on {}", DB::DISPLAY)))?;
        Ok(Self { context: cx.clone(), name, database: PhantomData })
    }
}

impl<DB: TwoPhase> fmt::Debug for Branch<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Branch")
            .field("name", &self.name)
            .field("database", &DB::DISPLAY)
            .finish_non_exhaustive()
    }
}
