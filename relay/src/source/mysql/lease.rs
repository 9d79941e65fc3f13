//! Whose the outbox is: the row in `relay_source`.

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row};

use super::{MySqlSource, session};
use crate::{
    lease::{Candidate, Epoch, Holder, Leases, Take},
    source::{At, SourceError, holder, whole_millis},
};

const LOOK: &str = "SELECT epoch, renewals, coalesce(owner, ''), coalesce(process, ''), lease_ms, \
    DATE_FORMAT(lease_until, '%Y-%m-%d %H:%i:%s UTC'), \
    coalesce((TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), lease_until) + 999) DIV 1000, 0) FROM relay_source WHERE source = ?";

const ENTER: &str = "INSERT INTO relay_source (source) VALUES (?) ON DUPLICATE KEY UPDATE source = source";

/// Assignments happen from left to right, and the conditions before them.
const TAKE: &str = "UPDATE relay_source SET epoch = epoch + 1, renewals = 0, owner = ?, process = ?, lease_ms = ?, \
      lease_until = UTC_TIMESTAMP(6) + INTERVAL ? * 1000 MICROSECOND, updated_at = UTC_TIMESTAMP(6) \
    WHERE source = ? AND epoch = ? AND renewals = ? \
      AND (? OR lease_until IS NULL OR lease_until <= UTC_TIMESTAMP(6) OR process = ?)";

const RENEW: &str = "UPDATE relay_source SET renewals = renewals + 1, lease_ms = ?, \
      lease_until = UTC_TIMESTAMP(6) + INTERVAL ? * 1000 MICROSECOND, updated_at = UTC_TIMESTAMP(6) \
    WHERE source = ? AND epoch = ? AND process = ?";

const RELEASE: &str = "UPDATE relay_source SET lease_until = NULL, updated_at = UTC_TIMESTAMP(6) \
    WHERE source = ? AND epoch = ? AND process = ?";

pub(super) struct MySqlLeases {
    name: String,
    by: Candidate,
    connection: MySqlConnection,
}

impl MySqlLeases {
    pub(super) async fn open(source: &MySqlSource, by: &Candidate) -> Result<Self, SourceError> {
        let connection = session::open(source).await?;
        Ok(Self { name: source.name.clone(), by: by.clone(), connection })
    }

    async fn owned(&mut self, doing: &'static str, epoch: Epoch, rows: u64) -> Result<(), SourceError> {
        if rows > 0 {
            return Ok(());
        }
        Err(fenced(&self.name, &mut self.connection, doing, epoch).await)
    }
}

/// The refusal of a write with an epoch that is not the newest: it names the newest.
pub(super) async fn fenced(
    name: &str,
    connection: &mut MySqlConnection,
    doing: &'static str,
    epoch: Epoch,
) -> SourceError {
    match look(name, connection).await {
        Ok(newest) => {
            SourceError::Fenced { source_name: name.to_owned(), doing, epoch, newest: Box::new(newest) }
        }
        Err(error) => error,
    }
}

pub(super) async fn look(name: &str, connection: &mut MySqlConnection) -> Result<Holder, SourceError> {
    let call = async {
        let row = sqlx::query(LOOK).bind(name).fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(holder::nobody()) };
        Ok(Holder {
            epoch: Epoch(row.try_get(0)?),
            renewals: row.try_get(1)?,
            owner: row.try_get(2)?,
            process: row.try_get(3)?,
            lease: holder::millis(row.try_get(4)?),
            until: row.try_get(5)?,
            left: holder::millis(row.try_get(6)?),
        })
    };
    At { name }.bounded("looking who owns the outbox", call).await
}

#[async_trait]
impl Leases for MySqlLeases {
    async fn look(&mut self) -> Result<Holder, SourceError> {
        look(&self.name, &mut self.connection).await
    }

    async fn take(&mut self, how: Take, lease: std::time::Duration) -> Result<Option<Epoch>, SourceError> {
        let at = At { name: &self.name };
        if how.over == Epoch(0) {
            let enter = sqlx::query(ENTER).bind(&self.name).execute(&mut self.connection);
            at.bounded("entering the outbox", enter).await?;
        }
        let lease = whole_millis(lease);
        let take = sqlx::query(TAKE)
            .bind(&self.by.name)
            .bind(&self.by.process)
            .bind(lease)
            .bind(lease)
            .bind(&self.name)
            .bind(how.over.0)
            .bind(how.renewals)
            .bind(how.early)
            .bind(&self.by.process)
            .execute(&mut self.connection);
        let taken = at.bounded("taking the lease", take).await?.rows_affected() == 1;
        Ok(taken.then(|| Epoch(how.over.0 + 1)))
    }

    async fn renew(&mut self, epoch: Epoch, lease: std::time::Duration) -> Result<(), SourceError> {
        let doing = "renewing the lease";
        let lease = whole_millis(lease);
        let renew = sqlx::query(RENEW).bind(lease).bind(lease);
        let renew = renew.bind(&self.name).bind(epoch.0).bind(&self.by.process).execute(&mut self.connection);
        let rows = At { name: &self.name }.bounded(doing, renew).await?.rows_affected();
        self.owned(doing, epoch, rows).await
    }

    async fn release(&mut self, epoch: Epoch) -> Result<(), SourceError> {
        let doing = "releasing the lease";
        let release = sqlx::query(RELEASE).bind(&self.name).bind(epoch.0).bind(&self.by.process);
        let release = release.execute(&mut self.connection);
        let rows = At { name: &self.name }.bounded(doing, release).await?.rows_affected();
        self.owned(doing, epoch, rows).await
    }
}
