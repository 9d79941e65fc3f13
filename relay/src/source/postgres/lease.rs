//! Whose the outbox is: the row in `relay_source`.

use async_trait::async_trait;
use sqlx::{PgConnection, Row};

use super::{PostgresSource, session};
use crate::{
    lease::{Candidate, Epoch, Holder, Leases, Take},
    source::{At, SourceError, holder, whole_millis},
};

const LOOK: &str = "SELECT epoch, renewals, coalesce(owner, ''), coalesce(process, ''), lease_ms, \
    to_char(lease_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', \
    coalesce(ceil(extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint, 0) FROM relay_source WHERE source = $1";

const ENTER: &str = "INSERT INTO relay_source (source) VALUES ($1) ON CONFLICT (source) DO NOTHING";

const TAKE: &str = "UPDATE relay_source SET epoch = epoch + 1, renewals = 0, owner = $2, process = $3, lease_ms = $4, \
      lease_until = clock_timestamp() + $4 * interval '1 millisecond', updated_at = clock_timestamp() \
    WHERE source = $1 AND epoch = $5 AND renewals = $6 \
      AND ($7 OR lease_until IS NULL OR lease_until <= clock_timestamp() OR process = $3) RETURNING epoch";

const RENEW: &str = "UPDATE relay_source SET renewals = renewals + 1, lease_ms = $4, \
      lease_until = clock_timestamp() + $4 * interval '1 millisecond', updated_at = clock_timestamp() \
    WHERE source = $1 AND epoch = $2 AND process = $3";

const RELEASE: &str = "UPDATE relay_source SET lease_until = NULL, updated_at = clock_timestamp() \
    WHERE source = $1 AND epoch = $2 AND process = $3";

pub(super) struct PostgresLeases {
    name: String,
    by: Candidate,
    connection: PgConnection,
}

impl PostgresLeases {
    pub(super) async fn open(source: &PostgresSource, by: &Candidate) -> Result<Self, SourceError> {
        let connection = session::leases(source).await?;
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
    connection: &mut PgConnection,
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

pub(super) async fn look(name: &str, connection: &mut PgConnection) -> Result<Holder, SourceError> {
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
impl Leases for PostgresLeases {
    async fn look(&mut self) -> Result<Holder, SourceError> {
        look(&self.name, &mut self.connection).await
    }

    async fn take(&mut self, how: Take, lease: std::time::Duration) -> Result<Option<Epoch>, SourceError> {
        let at = At { name: &self.name };
        if how.over == Epoch(0) {
            let enter = sqlx::query(ENTER).bind(&self.name).execute(&mut self.connection);
            at.bounded("entering the outbox", enter).await?;
        }
        let take = sqlx::query_scalar(TAKE)
            .bind(&self.name)
            .bind(&self.by.name)
            .bind(&self.by.process)
            .bind(whole_millis(lease))
            .bind(how.over.0)
            .bind(how.renewals)
            .bind(how.early)
            .fetch_optional(&mut self.connection);
        Ok(at.bounded("taking the lease", take).await?.map(Epoch))
    }

    async fn renew(&mut self, epoch: Epoch, lease: std::time::Duration) -> Result<(), SourceError> {
        let doing = "renewing the lease";
        let renew = sqlx::query(RENEW).bind(&self.name).bind(epoch.0).bind(&self.by.process);
        let renew = renew.bind(whole_millis(lease)).execute(&mut self.connection);
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
