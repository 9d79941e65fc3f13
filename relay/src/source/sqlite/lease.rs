//! Whose the outbox is: the row in `relay_source`.
//!
//! The clock of a SQLite file is that of whoever asks. That is enough: a standby also watches the lease by its monotonic clock.

use async_trait::async_trait;
use barid::store::held::HeldTransaction;
use sqlx::{Row, Sqlite, query::Query, sqlite::SqliteArguments};

use super::{SqliteSource, writer::commit};
use crate::{
    lease::{Candidate, Epoch, Holder, Leases, Take},
    source::{At, SourceError, holder, whole_millis},
};

macro_rules! now {
    () => {
        "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    };
}

const LOOK: &str = concat!(
    "SELECT epoch, renewals, coalesce(owner, ''), coalesce(process, ''), lease_ms, \
     strftime('%Y-%m-%d %H:%M:%S UTC', lease_until / 1000, 'unixepoch'), coalesce(lease_until - ",
    now!(),
    ", 0) FROM relay_source WHERE source = ?"
);

const ENTER: &str = "INSERT INTO relay_source (source) VALUES (?) ON CONFLICT (source) DO NOTHING";

const TAKE: &str = concat!(
    "UPDATE relay_source SET epoch = epoch + 1, renewals = 0, owner = ?2, process = ?3, lease_ms = ?4, lease_until = ?4 + ",
    now!(),
    ", updated_at = ",
    now!(),
    " WHERE source = ?1 AND epoch = ?5 AND renewals = ?6 AND (?7 OR lease_until IS NULL OR lease_until <= ",
    now!(),
    " OR process = ?3)"
);

const RENEW: &str = concat!(
    "UPDATE relay_source SET renewals = renewals + 1, lease_ms = ?4, lease_until = ?4 + ",
    now!(),
    ", updated_at = ",
    now!(),
    " WHERE source = ?1 AND epoch = ?2 AND process = ?3"
);

const RELEASE: &str = concat!(
    "UPDATE relay_source SET lease_until = NULL, updated_at = ",
    now!(),
    " WHERE source = ?1 AND epoch = ?2 AND process = ?3"
);

/// Whether the epoch is the newest, asked in the transaction that depends on it: the file has one writer at a time.
const FENCE: &str = "SELECT EXISTS (SELECT 1 FROM relay_source WHERE source = ? AND epoch = ?)";

pub(super) struct SqliteLeases {
    source: SqliteSource,
    by: Candidate,
}

impl SqliteLeases {
    pub(super) fn new(source: SqliteSource, by: &Candidate) -> Self {
        Self { source, by: by.clone() }
    }

    /// Runs a statement in a transaction of its own; how many rows it changed.
    async fn write(
        &self,
        doing: &'static str,
        statement: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<u64, SourceError> {
        let written = async {
            let mut transaction = HeldTransaction::begin_immediate(&self.source.pool).await?;
            let written = statement.execute(transaction.connection()).await?.rows_affected();
            commit(transaction).await?;
            Ok(written)
        };
        self.source.at().bounded(doing, written).await
    }

    async fn owned(&self, doing: &'static str, epoch: Epoch, rows: u64) -> Result<(), SourceError> {
        if rows == 0 { Err(fenced(&self.source, doing, epoch).await) } else { Ok(()) }
    }
}

/// Whether the epoch is the newest, as this transaction sees it.
pub(super) async fn is_newest(
    source: &SqliteSource,
    transaction: &mut HeldTransaction<Sqlite>,
    epoch: Epoch,
) -> Result<bool, sqlx::Error> {
    let asked = sqlx::query_scalar(FENCE).bind(&*source.name).bind(epoch.0);
    asked.fetch_one(transaction.connection()).await
}

/// The refusal of a write with an epoch that is not the newest: it names the newest.
pub(super) async fn fenced(source: &SqliteSource, doing: &'static str, epoch: Epoch) -> SourceError {
    match look(source).await {
        Ok(newest) => SourceError::Fenced {
            source_name: source.name.to_string(),
            doing,
            epoch,
            newest: Box::new(newest),
        },
        Err(error) => error,
    }
}

pub(super) async fn look(source: &SqliteSource) -> Result<Holder, SourceError> {
    let call = async {
        let row = sqlx::query(LOOK).bind(&*source.name).fetch_optional(&source.pool).await?;
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
    At { name: &source.name }.bounded("looking who owns the outbox", call).await
}

#[async_trait]
impl Leases for SqliteLeases {
    async fn look(&mut self) -> Result<Holder, SourceError> {
        look(&self.source).await
    }

    async fn take(&mut self, how: Take, lease: std::time::Duration) -> Result<Option<Epoch>, SourceError> {
        let name = &*self.source.name;
        if how.over == Epoch(0) {
            self.write("entering the outbox", sqlx::query(ENTER).bind(name)).await?;
        }
        let take = sqlx::query(TAKE).bind(name).bind(&self.by.name).bind(&self.by.process);
        let take = take.bind(whole_millis(lease)).bind(how.over.0).bind(how.renewals).bind(how.early);
        let taken = self.write("taking the lease", take).await? == 1;
        Ok(taken.then(|| Epoch(how.over.0 + 1)))
    }

    async fn renew(&mut self, epoch: Epoch, lease: std::time::Duration) -> Result<(), SourceError> {
        let doing = "renewing the lease";
        let renew = sqlx::query(RENEW).bind(&*self.source.name).bind(epoch.0).bind(&self.by.process);
        let rows = self.write(doing, renew.bind(whole_millis(lease))).await?;
        self.owned(doing, epoch, rows).await
    }

    async fn release(&mut self, epoch: Epoch) -> Result<(), SourceError> {
        let doing = "releasing the lease";
        let release = sqlx::query(RELEASE).bind(&*self.source.name).bind(epoch.0).bind(&self.by.process);
        let rows = self.write(doing, release).await?;
        self.owned(doing, epoch, rows).await
    }
}
