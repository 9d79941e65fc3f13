//! Scheduled messages, kept in the database of the unit of work.
//!
//! Scheduling is one statement, which joins the closing text of a unit of work or runs by itself. Moving what is due into the
//! outbox is one transaction that finds, inserts and deletes: when its answer is lost it either happened or did not, and the
//! next look shows which. Each database has its statements in `store/<database>/schedule.rs`.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Database, Pool};
use uuid::Uuid;

use super::{backend::Backend, kept::Kept, shared::headers_json, statement::Statement, unit::bounded};
use crate::{
    error::{Error, Result},
    limits,
    transport::OutgoingRow,
};

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// So much later than the database's clock says when it is written.
    In(Duration),
    /// When the database's clock says this. A time that has passed is due at once.
    At(DateTime<Utc>),
}

impl Due {
    /// That a database can hold it.
    pub(crate) fn check(self) -> Result<Self> {
        let (too_far, what) = match self {
            Self::In(after) => (after > limits::DEFER_MAX, format!("in {after:?}")),
            Self::At(at) => (at.timestamp() > limits::SCHEDULE_AT_MAX_S, format!("at {at}")),
        };
        if too_far {
            return Err(Error::permanent(format!(
                "a message cannot be scheduled {what}: at most {} days ahead, and before the year 10000",
                limits::DEFER_MAX.as_secs() / 86_400
            )));
        }
        Ok(self)
    }

    /// In microseconds, from now or from 1970. Rounded up: never earlier than was asked for.
    pub(super) fn micros(self) -> i64 {
        match self {
            Self::In(after) => i64::try_from(after.as_nanos().div_ceil(1_000)).unwrap_or(i64::MAX),
            Self::At(at) => at.timestamp_micros().max(0) + i64::from(at.timestamp_subsec_nanos() % 1_000 > 0),
        }
    }
}

/// A whole outgoing row, and when it leaves.
#[derive(Clone, Debug)]
pub(crate) struct Scheduled {
    /// What cancels it. Scheduling an id again replaces what was scheduled under it.
    pub(crate) id: Uuid,
    pub(crate) due: Due,
    pub(crate) row: OutgoingRow,
}

/// What became of the rows that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many were moved into the outbox, the earliest first.
    Rows(u64),
    /// Another instance is moving.
    Busy,
}

/// The table `schedule` of one database.
pub trait ScheduleRows: Database {
    /// What follows the values of an insert, so that it replaces a row of the same id.
    const REPLACE: &'static str;

    /// Now and `micros` more, by the database's clock.
    fn due_in(insert: Statement, micros: i64) -> Statement;

    /// The time that is `micros` after the beginning of 1970 in UTC.
    fn due_at(insert: Statement, micros: i64) -> Statement;

    /// In how many microseconds the first row is due, by the database's clock; zero or less when it is. It only reads.
    fn next_due(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;

    /// Moves the first rows that are due into the outbox, in the order of (due time, id), in one transaction. Of several
    /// instances one moves at a time, from its first look until after its commit: so rows of one key reach the outbox in the
    /// order in which they are due. A row that somebody's open transaction cancels or replaces is left for a later look.
    fn move_due(pool: &Pool<Self>, rows_max: u32) -> impl Future<Output = Result<Moved, sqlx::Error>> + Send;
}

/// The columns of the outbox, as the table `schedule` calls them.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) const SCHEDULE_COLUMNS: &str =
    "message_id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext";

/// The statement that schedules a row, or replaces the one that is scheduled under the same id.
pub(crate) fn put<DB: ScheduleRows>(Scheduled { id, due, row }: &Scheduled) -> Statement {
    let insert = Statement::new(
        "INSERT INTO schedule(id,message_id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext,\
         due_at)VALUES(",
    );
    let insert = insert.id(*id).sql(",").id(row.id).sql(",").text(row.destination.to_string());
    let insert = insert.sql(",").text(&row.aggregatetype).sql(",").opt_text(row.aggregateid.as_deref());
    let insert = insert.sql(",").text(&row.name).sql(",").bytes(row.payload.clone());
    let insert = insert.sql(",").json(headers_json(row)).sql(",").opt_text(row.tracingspancontext.as_deref());
    let insert = match due {
        Due::In(_) => DB::due_in(insert.sql(","), due.micros()),
        Due::At(_) => DB::due_at(insert.sql(","), due.micros()),
    };
    insert.sql(")").sql(DB::REPLACE)
}

/// The statement that cancels. It touches one row, or none when there is no such row: what is due may have left.
pub(crate) fn cancel(id: Uuid) -> Statement {
    Statement::new("DELETE FROM schedule WHERE id=").id(id)
}

/// The schedule of a bus, whatever its database.
#[async_trait]
pub(crate) trait ScheduleStore: Send + Sync + 'static {
    /// See [`put`].
    fn put(&self, scheduled: &Scheduled) -> Statement;
    /// Runs one statement by itself and says how many rows it touched.
    async fn run(&self, statement: &Statement) -> Result<u64>;
    /// How long until the first row is due; zero when one is.
    async fn next_due(&self) -> Result<Option<Duration>>;
    /// See [`ScheduleRows::move_due`].
    async fn move_due(&self, rows_max: u32) -> Result<Moved>;
}

pub(crate) struct SqlScheduleStore<DB: Backend>(pub(crate) Arc<Kept<DB>>);

#[async_trait]
impl<DB: Backend> ScheduleStore for SqlScheduleStore<DB> {
    fn put(&self, scheduled: &Scheduled) -> Statement {
        put::<DB>(scheduled)
    }

    async fn run(&self, statement: &Statement) -> Result<u64> {
        bounded(async {
            let _writer = DB::writer(self.0.pool()).await;
            let mut connection = self.0.acquire().await?;
            Ok(DB::run(&mut connection, statement).await?)
        })
        .await
    }

    async fn next_due(&self) -> Result<Option<Duration>> {
        bounded(async {
            let mut connection = self.0.acquire().await?;
            let micros = DB::next_due(&mut connection).await?;
            Ok(micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
        })
        .await
    }

    async fn move_due(&self, rows_max: u32) -> Result<Moved> {
        bounded(async { Ok(DB::move_due(self.0.pool(), rows_max).await?) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_earlier_than_was_asked_for() {
        let at = |nanos| Due::At(DateTime::from_timestamp(7, nanos).unwrap()).micros();
        assert_eq!((at(0), at(1), at(1_000)), (7_000_000, 7_000_001, 7_000_001));
        let after = |nanos| Due::In(Duration::from_nanos(nanos)).micros();
        assert_eq!((after(0), after(1), after(1_000), after(1_001)), (0, 1, 1, 2));
        assert_eq!(Due::At(DateTime::from_timestamp(-7, 5_000).unwrap()).micros(), 0, "long due");
    }

    #[test]
    fn what_no_database_can_hold_is_refused() {
        for due in [Due::In(Duration::MAX), Due::At(DateTime::<Utc>::MAX_UTC)] {
            assert!(due.check().unwrap_err().to_string().contains("cannot be scheduled"));
        }
        Due::In(limits::DEFER_MAX).check().unwrap();
        Due::At(DateTime::from_timestamp(limits::SCHEDULE_AT_MAX_S, 0).unwrap()).check().unwrap();
    }
}
