//! The decision log, for people: what [`LogBook`] promises, in SQL.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::log::{SqlDecisionLog, decision, unreadable};
use crate::{
    distributed::{
        Gid,
        book::{
            AuditEntry, BranchEntry, EventEntry, LogBook, LogFigures, TransactionDetail, TransactionEntry,
            TransactionFilter, Which,
        },
        log::LogError,
    },
    limits,
    store::{backend::Backend, statement::Statement},
};

/// Ends with the columns of [`entry`], in their order.
fn entries<DB: Backend>() -> Statement {
    let mut select = Statement::new(
        "SELECT gid,name,kind,tx_type,metadata,correlation_id,principal,status,decision,decision_reason,error_message,\
         cleaned_up_reason,home,attempts",
    );
    for column in
        ["started_at", "prepared_at", "decided_at", "finished_at", "cleaned_up_at", "deadline", "next_run_at"]
    {
        select = DB::since_1970(select.sql(","), column);
    }
    DB::since_1970(select.sql(","), DB::NOW).sql(" FROM dtx_transaction WHERE 1=1")
}

pub(crate) fn time(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Of a row of [`entries`]. `None`: another program's row, whose id is none of ours.
fn entry<DB: Backend>(row: &DB::Row) -> Result<Option<TransactionEntry>, sqlx::Error> {
    let text = |at| DB::text(row, at);
    let at = |column| Ok::<_, sqlx::Error>(DB::maybe_int(row, column)?.map(time));
    let Some(gid) = text(0)?.and_then(|gid| gid.parse().ok()) else { return Ok(None) };
    let (started, now) = (DB::maybe_int(row, 14)?.unwrap_or(0), DB::maybe_int(row, 21)?.unwrap_or(0));
    Ok(Some(TransactionEntry {
        gid,
        name: text(1)?,
        kind: text(2)?.unwrap_or_default(),
        tx_type: text(3)?,
        metadata: text(4)?,
        correlation_id: text(5)?,
        principal: text(6)?,
        status: text(7)?.unwrap_or_default(),
        decision: decision(text(8)?),
        decision_reason: text(9)?,
        error_message: text(10)?,
        cleaned_up_reason: text(11)?,
        home: DB::int(row, 12)? != 0,
        attempts: u32::try_from(DB::int(row, 13)?).unwrap_or(u32::MAX),
        started_at: time(started),
        prepared_at: at(15)?,
        decided_at: at(16)?,
        finished_at: at(17)?,
        cleaned_up_at: at(18)?,
        deadline: at(19)?.unwrap_or_default(),
        next_run_at: at(20)?.unwrap_or_default(),
        age_ms: count(now.saturating_sub(started)),
    }))
}

fn branch<DB: Backend>(row: &DB::Row) -> Result<BranchEntry, sqlx::Error> {
    let text = |at| DB::text(row, at).map(Option::unwrap_or_default);
    Ok(BranchEntry {
        ordinal: u16::try_from(DB::int(row, 0)?).unwrap_or(u16::MAX),
        name: text(1)?,
        kind: text(2)?,
        resource: text(3)?,
        resource_type: text(4)?,
        xid: text(5)?,
        status: text(6)?,
        error: DB::text(row, 7)?,
        updated_at: time(DB::maybe_int(row, 8)?.unwrap_or(0)),
    })
}

/// Writes down what somebody did.
pub(crate) fn audit_insert(entry: &AuditEntry) -> Statement {
    let insert = Statement::new("INSERT INTO dtx_audit(gid,name,principal,action,outcome,reason)VALUES(");
    let gid = entry.gid.map(|gid| gid.to_string());
    let insert = insert.opt_text(gid.as_deref()).sql(",").text(&entry.name).sql(",");
    let insert = insert.text(&entry.principal).sql(",").text(&entry.action).sql(",");
    insert.text(&entry.outcome).sql(",").text(&entry.reason).sql(")")
}

fn audit<DB: Backend>(row: &DB::Row) -> Result<AuditEntry, sqlx::Error> {
    let text = |at| DB::text(row, at).map(Option::unwrap_or_default);
    Ok(AuditEntry {
        at: DB::maybe_int(row, 0)?.map(time),
        gid: DB::text(row, 1)?.and_then(|gid| gid.parse().ok()),
        name: text(2)?,
        principal: text(3)?,
        action: text(4)?,
        outcome: text(5)?,
        reason: text(6)?,
    })
}

impl<DB: Backend> SqlDecisionLog<DB> {
    async fn read<T>(
        &self,
        select: &Statement,
        read: fn(&DB::Row) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, LogError> {
        let (_, rows) = self.ask(select).await?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(unreadable)
    }

    async fn branches(&self, gid: Gid) -> Result<Vec<BranchEntry>, LogError> {
        let select = Statement::new("SELECT ordinal,name,kind,resource_id,resource_type,xid,status,error,");
        let select = DB::since_1970(select, "updated_at").sql(" FROM dtx_branch WHERE gid=");
        self.read(&select.text(gid.to_string()).sql(" ORDER BY ordinal"), branch::<DB>).await
    }

    async fn events(&self, gid: Gid) -> Result<Vec<EventEntry>, LogError> {
        let select = DB::since_1970(Statement::new("SELECT event,data,"), "at");
        let select = select.sql(" FROM dtx_event WHERE gid=").text(gid.to_string());
        let select = select.sql(" ORDER BY id DESC LIMIT ").int(limits::DISTRIBUTED_LIST_MAX.into());
        let event = |row: &DB::Row| {
            Ok(EventEntry {
                at: time(DB::maybe_int(row, 2)?.unwrap_or(0)),
                event: DB::text(row, 0)?.unwrap_or_default(),
                data: DB::text(row, 1)?,
            })
        };
        let mut events = self.read(&select, event).await?;
        events.reverse();
        Ok(events)
    }
}

#[async_trait]
impl<DB: Backend> LogBook for SqlDecisionLog<DB> {
    async fn list(&self, filter: &TransactionFilter) -> Result<Vec<TransactionEntry>, LogError> {
        let mut select = entries::<DB>();
        select = match filter.which {
            Which::Open => select.sql(" AND finished_at IS NULL"),
            Which::Finished => select.sql(" AND finished_at IS NOT NULL"),
            Which::All => select,
        };
        if let Some(name) = &filter.name {
            select = select.sql(" AND name=").text(name);
        }
        if let Some(status) = &filter.status {
            select = select.sql(" AND status=").text(status);
        }
        if let Some(age) = filter.older_than {
            select = DB::later(select.sql(" AND started_at<="), -super::log::millis(age));
        }
        let select = match filter.which {
            Which::Open => select.sql(" ORDER BY started_at,gid LIMIT "),
            Which::Finished => select.sql(" ORDER BY finished_at DESC,gid DESC LIMIT "),
            Which::All => select.sql(
                " ORDER BY CASE WHEN finished_at IS NULL THEN 0 ELSE 1 END,started_at DESC,gid DESC LIMIT ",
            ),
        };
        let found = self.read(&select.int(filter.bound().into()), entry::<DB>).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn show(&self, gid: Gid) -> Result<Option<TransactionDetail>, LogError> {
        let select = entries::<DB>().sql(" AND gid=").text(gid.to_string());
        let found = self.read(&select, entry::<DB>).await?;
        let Some(transaction) = found.into_iter().flatten().next() else { return Ok(None) };
        let (branches, events) = (self.branches(gid).await?, self.events(gid).await?);
        Ok(Some(TransactionDetail { transaction, branches, events }))
    }

    async fn figures(&self) -> Result<LogFigures, LogError> {
        let select = Statement::new(
            "SELECT count(*),\
             count(CASE WHEN name IS NOT NULL AND prepared_at IS NOT NULL AND decision IS NULL THEN 1 END),\
             count(CASE WHEN attempts>0 THEN 1 END),\
             count(CASE WHEN status='requires_manual_intervention' THEN 1 END)\
             FROM dtx_transaction WHERE finished_at IS NULL",
        );
        let counts =
            |row: &DB::Row| Ok([DB::int(row, 0)?, DB::int(row, 1)?, DB::int(row, 2)?, DB::int(row, 3)?]);
        let counts = self.read(&select, counts).await?.first().copied().unwrap_or_default();
        let oldest = self.list(&TransactionFilter { count: 1, ..TransactionFilter::default() }).await?;
        let [open, waiting, in_doubt, manual] = counts.map(count);
        Ok(LogFigures {
            open,
            waiting,
            in_doubt,
            manual,
            oldest: oldest.first().map(|entry| entry.gid),
            oldest_age_ms: oldest.first().map_or(0, |entry| entry.age_ms),
        })
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), LogError> {
        self.ask(&audit_insert(entry)).await.map(drop)
    }

    async fn audited(&self, of: Option<&str>, count: u32) -> Result<Vec<AuditEntry>, LogError> {
        let select = DB::since_1970(Statement::new("SELECT "), "at");
        let mut select = select.sql(",gid,name,principal,action,outcome,reason FROM dtx_audit");
        if let Some(of) = of {
            select = select.sql(" WHERE name=").text(of).sql(" OR gid=").text(of);
        }
        let count = count.min(limits::DISTRIBUTED_LIST_MAX);
        self.read(&select.sql(" ORDER BY id DESC LIMIT ").int(count.into()), audit::<DB>).await
    }
}
