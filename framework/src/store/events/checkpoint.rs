//! How far a subscription is, and who reads it: one at a time, until its lease has run out by the database's clock.

use std::time::Duration;

use uuid::Uuid;

use super::{EventStore, Fault, Work, counted, stored};
use crate::{
    event_store::EventStoreError,
    store::{backend::Backend, connection::UnitConnection, statement::Statement},
};

/// A subscription that this reader owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Every event up to here was settled.
    pub(crate) position: u64,
    /// Events up to here may have been handed out by whoever owned it before.
    pub(crate) last: u64,
}

impl<DB: Backend> EventStore<DB> {
    /// How far a subscription is: the position up to which every event was handled. `None` when nobody has subscribed under this
    /// name.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn checkpoint(&self, subscription: &str) -> Result<Option<u64>, EventStoreError> {
        self.reading("reading a checkpoint", async |connection| {
            let find = Statement::new("SELECT position FROM event_checkpoint WHERE subscription=");
            let (_, rows) = DB::ask(connection, &find.text(subscription)).await?;
            Ok(rows.first().map(|row| DB::int_at(row, 0)).transpose()?.flatten().map(counted))
        })
        .await
    }

    /// Begins a subscription behind `position`, unless there is one of this name.
    pub(crate) async fn subscribe(&self, subscription: &str, position: u64) -> Result<(), EventStoreError> {
        let doing = format!("beginning subscription {subscription}");
        self.transaction(doing, Subscribe { subscription: subscription.to_owned(), position }).await
    }

    /// Makes `owner` the reader for the time of the lease. `None` when somebody else is.
    pub(crate) async fn claim(
        &self,
        subscription: &str,
        owner: Uuid,
        lease: Duration,
    ) -> Result<Option<Claimed>, EventStoreError> {
        let doing = format!("claiming subscription {subscription}");
        self.transaction(doing, Claim { subscription: subscription.to_owned(), owner, lease }).await
    }

    /// Writes how far the owner is, and goes on for the time of the lease; without one it gives the subscription back. False when
    /// somebody else has taken it.
    pub(crate) async fn keep(
        &self,
        subscription: &str,
        owner: Uuid,
        position: u64,
        lease: Option<Duration>,
    ) -> Result<bool, EventStoreError> {
        let doing = format!("writing the checkpoint of subscription {subscription}");
        self.transaction(doing, Keep { subscription: subscription.to_owned(), owner, position, lease }).await
    }
}

struct Subscribe {
    subscription: String,
    position: u64,
}

impl<DB: Backend> Work<DB> for Subscribe {
    type Done = ();

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<(), Fault> {
        let insert = Statement::new("INSERT INTO event_checkpoint(subscription,position)VALUES(");
        let insert = insert.text(&self.subscription).sql(",").int(stored(self.position));
        DB::ask(unit.live()?, &insert.sql(")").sql(DB::OR_KEEP_SUBSCRIPTION)).await?;
        Ok(())
    }
}

struct Claim {
    subscription: String,
    owner: Uuid,
    lease: Duration,
}

impl<DB: Backend> Work<DB> for Claim {
    type Done = Option<Claimed>;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<Option<Claimed>, Fault> {
        let connection = unit.live()?;
        let claim = Statement::new("UPDATE event_checkpoint SET owner=").id(self.owner).sql(",lease_until=");
        let claim = until::<DB>(claim, self.lease).sql(" WHERE subscription=").text(&self.subscription);
        let claim = claim.sql(" AND(owner IS NULL OR owner=").id(self.owner).sql(" OR lease_until<");
        if DB::ask(connection, &claim.sql(DB::NOW).sql(")")).await?.0 == 0 {
            return Ok(None);
        }
        let find = Statement::new(
            "SELECT position,(SELECT last FROM event_order WHERE id=1) FROM event_checkpoint WHERE subscription=",
        );
        let (_, rows) = DB::ask(connection, &find.text(&self.subscription)).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let number = |at| DB::int_at(row, at).map(|number| number.map_or(0, counted));
        Ok(Some(Claimed { position: number(0)?, last: number(1)? }))
    }
}

struct Keep {
    subscription: String,
    owner: Uuid,
    position: u64,
    lease: Option<Duration>,
}

impl<DB: Backend> Work<DB> for Keep {
    type Done = bool;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<bool, Fault> {
        let keep = Statement::new("UPDATE event_checkpoint SET position=").int(stored(self.position));
        let keep = keep.sql(",updated_at=").sql(DB::NOW);
        let keep = match self.lease {
            Some(lease) => until::<DB>(keep.sql(",lease_until="), lease),
            None => keep.sql(",owner=NULL,lease_until=NULL"),
        };
        let keep =
            keep.sql(" WHERE subscription=").text(&self.subscription).sql(" AND owner=").id(self.owner);
        Ok(DB::ask(unit.live()?, &keep).await?.0 == 1)
    }
}

fn until<DB: Backend>(statement: Statement, lease: Duration) -> Statement {
    DB::due_in(statement, i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
}
