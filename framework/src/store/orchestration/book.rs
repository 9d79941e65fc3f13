//! Orchestrated sagas for people, in SQL.

use async_trait::async_trait;

use super::log::{SqlSagaLog, in_turn, step_update};
use crate::{
    distributed::{LogBook as _, Which},
    limits,
    orchestration::{
        OrchestrationError, SagaBook, SagaDetail, SagaEntry, SagaFilter, SagaId, StepEntry,
        book::{Changed, unreadable},
        log::{MANUAL, SavedStep},
    },
    store::{
        backend::Backend,
        distributed::{
            book::{audit_insert, count, time},
            log::millis,
        },
        statement::Statement,
    },
};

/// Ends with the columns of [`entry`], in their order.
fn entries<DB: Backend>() -> Statement {
    let select = Statement::new("SELECT id,name,version,status,direction,error,epoch,CASE WHEN lease_until>");
    let mut select = select.sql(DB::NOW).sql(" THEN lease_owner END");
    for column in ["started_at", "updated_at", "next_run_at", "lease_until", "deadline", "finished_at"] {
        select = DB::since_1970(select.sql(","), column);
    }
    DB::since_1970(select.sql(","), DB::NOW).sql(",data FROM orchestration WHERE 1=1")
}

/// A saga and what it was started with. `None`: another program's row, whose id is none of ours.
fn entry<DB: Backend>(row: &DB::Row) -> Result<Option<(SagaEntry, String)>, OrchestrationError> {
    let text = |at| DB::text(row, at).map_err(unreadable);
    let at = |column| Ok::<_, OrchestrationError>(DB::maybe_int(row, column).map_err(unreadable)?.map(time));
    let Some(id) = text(0)?.and_then(|id| id.parse().ok()) else { return Ok(None) };
    let millis =
        |column| Ok::<_, OrchestrationError>(DB::maybe_int(row, column).map_err(unreadable)?.unwrap_or(0));
    let entry = SagaEntry {
        id,
        name: text(1)?.unwrap_or_default(),
        version: u32::try_from(DB::int(row, 2).map_err(unreadable)?).map_err(unreadable)?,
        status: text(3)?.unwrap_or_default(),
        direction: text(4)?.unwrap_or_default().parse().map_err(unreadable)?,
        error: text(5)?,
        epoch: DB::int(row, 6).map_err(unreadable)?,
        owner: text(7)?,
        started_at: at(8)?.unwrap_or_default(),
        updated_at: at(9)?.unwrap_or_default(),
        next_run_at: at(10)?.unwrap_or_default(),
        lease_until: at(11)?,
        deadline: at(12)?,
        finished_at: at(13)?,
        age_ms: count(millis(14)?.saturating_sub(millis(8)?)),
    };
    Ok(Some((entry, text(15)?.unwrap_or_default())))
}

fn step<DB: Backend>(row: &DB::Row) -> Result<StepEntry, OrchestrationError> {
    let text = |at| DB::text(row, at).map_err(unreadable);
    let number = |at| u32::try_from(DB::int(row, at).map_err(unreadable)?).map_err(unreadable);
    Ok(StepEntry {
        ordinal: number(0)?,
        name: text(1)?.unwrap_or_default(),
        status: text(2)?.unwrap_or_default().parse().map_err(unreadable)?,
        attempts: number(3)?,
        compensations: number(4)?,
        in_doubt: number(5)? != 0,
        output: text(6)?,
        error: text(7)?,
        updated_at: time(DB::maybe_int(row, 8).map_err(unreadable)?.unwrap_or(0)),
    })
}

#[async_trait]
impl<DB: Backend> SagaBook for SqlSagaLog<DB> {
    async fn list(&self, filter: &SagaFilter) -> Result<Vec<SagaEntry>, OrchestrationError> {
        let mut select = entries::<DB>().sql(match filter.which {
            Which::Open => " AND finished_at IS NULL",
            Which::Finished => " AND finished_at IS NOT NULL",
            Which::All => "",
        });
        if let Some(name) = &filter.name {
            select = select.sql(" AND name=").text(name);
        }
        if let Some(status) = &filter.status {
            select = select.sql(" AND status=").text(status);
        }
        if let Some(age) = filter.older_than {
            select = DB::later(select.sql(" AND started_at<="), -millis(age));
        }
        select = select.sql(match filter.which {
            Which::Open => " ORDER BY started_at,id LIMIT ",
            Which::Finished => " ORDER BY finished_at DESC,id DESC LIMIT ",
            Which::All => {
                " ORDER BY CASE WHEN finished_at IS NULL THEN 0 ELSE 1 END,started_at DESC,id DESC LIMIT "
            }
        });
        let bound = filter.count.min(limits::DISTRIBUTED_LIST_MAX);
        let (_, found) = self.desk.ask(&select.int(bound.into())).await?;
        let all: Result<Vec<_>, _> = found.iter().map(entry::<DB>).collect();
        Ok(all?.into_iter().flatten().map(|(entry, _)| entry).collect())
    }

    async fn show(&self, id: SagaId, audited: u32) -> Result<Option<SagaDetail>, OrchestrationError> {
        let (_, found) = self.desk.ask(&entries::<DB>().sql(" AND id=").text(id.to_string())).await?;
        let Some((saga, data)) = found.first().map(entry::<DB>).transpose()?.flatten() else {
            return Ok(None);
        };
        let select =
            Statement::new("SELECT ordinal,name,status,attempts,compensations,in_doubt,output,error,");
        let select = DB::since_1970(select, "updated_at").sql(" FROM orchestration_step WHERE id=");
        let (_, found) = self.desk.ask(&select.text(id.to_string()).sql(" ORDER BY ordinal")).await?;
        let steps = found.iter().map(step::<DB>).collect::<Result<_, _>>()?;
        let audit = match audited {
            0 => Vec::new(),
            count => self.desk.audited(Some(&id.to_string()), count).await?,
        };
        Ok(Some(SagaDetail { saga, data, steps, audit }))
    }

    async fn change(&self, change: &Changed) -> Result<(), OrchestrationError> {
        let update = in_turn(change.epoch, change.epoch + 1).sql(",status=").text(change.status);
        let update = update.sql(",updated_at=").sql(DB::NOW);
        let update = match change.status {
            MANUAL => update,
            _ => update.sql(",next_run_at=").sql(DB::NOW),
        };
        let mut all = vec![update.sql(" WHERE id=").text(change.id.to_string())];
        for at in &change.steps {
            let step = SavedStep { at: *at, output: None, error: None };
            all.push(step_update::<DB>(change.id, &change.state, &step));
        }
        all.push(audit_insert(&change.audit));
        self.fenced(change.id, all).await
    }
}
