//! The decision log in the home database.
//!
//! The decision is written once: [`SqlDecisionLog::decide`] changes a row that has none, and the home unit of work writes its own
//! with statements that fail when there is one. Both wait for each other on the row, so that even a COMMIT
//! whose answer was lost is found out by asking for the opposite.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::Pool;
use uuid::Uuid;

use crate::{
    distributed::{
        BranchId, CoordinatorId, Gid, Principal, ResourceId, TransactionName,
        core::{BranchKind, Decision, Outcome, Protocol},
        log::{
            BranchRecord, Closing, DecisionLog, Known, LogError, NewTransaction, heuristic_status, read,
            spelled,
        },
    },
    error::Error,
    store::{
        backend::{Backend, Verdict},
        connection::UnitConnection,
        contention,
        kept::Kept,
        statement::Statement,
    },
};

/// The tables `dtx_*` of one database, which is the home of the transactions that it decides.
pub struct SqlDecisionLog<DB: Backend> {
    pub(crate) kept: Arc<Kept<DB>>,
    coordinator: tokio::sync::OnceCell<CoordinatorId>,
}

/// The statements that write the decision to commit in the transaction of the home database. They fail when another decision
/// stands, or the transaction is not in the log any more: nothing commits then.
pub(super) fn commit_statements<DB: Backend>(gid: Gid, read_only: &[u16]) -> Vec<Statement> {
    let mut all: Vec<_> = read_only.iter().map(|place| left::<DB>(gid, *place)).collect();
    all.push(
        Statement::new(
            "UPDATE dtx_transaction SET decision=CASE WHEN decision IS NULL THEN 'commit' ELSE 'lost' END,\
             status='committing',decided_at=",
        )
        .sql(DB::NOW)
        .sql(" WHERE gid=")
        .text(gid.to_string()),
    );
    // NULL when there is no such row, which the column refuses.
    all.push(
        Statement::new("INSERT INTO dtx_event(gid,event)VALUES((SELECT gid FROM dtx_transaction WHERE decision='commit' AND gid=")
            .text(gid.to_string())
            .sql("),'decided to commit')"),
    );
    all
}

/// Fails when a transaction that was prepared had the name until lately: who still means that one must not reach this one.
fn name_is_free<DB: Backend>(gid: Gid, name: &str, kept_for: Duration) -> Statement {
    let insert = Statement::new(
        "INSERT INTO dtx_event(gid,event,data)VALUES((SELECT gid FROM dtx_transaction WHERE gid=",
    );
    let insert = insert
        .text(gid.to_string())
        .sql(" AND NOT EXISTS(SELECT 1 FROM dtx_transaction o WHERE o.prepared_at IS NOT NULL AND o.name=");
    let insert = DB::later(insert.text(name).sql(" AND o.finished_at>"), -millis(kept_for));
    insert.sql(")),'begun',").text(name).sql(")")
}

pub(super) fn left<DB: Backend>(gid: Gid, place: u16) -> Statement {
    let update = Statement::new("UPDATE dtx_branch SET status='read_only',updated_at=").sql(DB::NOW);
    update.sql(" WHERE gid=").text(gid.to_string()).sql(" AND ordinal=").int(place.into())
}

impl<DB: Backend> SqlDecisionLog<DB> {
    /// The log in the database of `pool`. The pool must be another one than the home units of work use, or have room beside them:
    /// the log is written while they are open.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { kept: Kept::new(pool), coordinator: tokio::sync::OnceCell::new() }
    }

    pub(crate) async fn ask(&self, statement: &Statement) -> Result<(u64, Vec<DB::Row>), LogError> {
        let answer = contention::run(|| async {
            let _writer = DB::writer(self.kept.pool()).await;
            UnitConnection::hold(self.kept.pool().acquire().await?).alone(statement).await
        });
        answer.await.map_err(|error| {
            LogError::Unknown(error.map_or_else(|| Error::new("no answer in time"), Error::from))
        })
    }

    /// Several writes in one transaction, by one text.
    pub(crate) async fn write(&self, statements: Vec<Statement>) -> Result<(), LogError> {
        self.write_from(DB::BEGIN, statements).await
    }

    async fn write_from(&self, begin: &'static str, statements: Vec<Statement>) -> Result<(), LogError> {
        let text = statements.into_iter().fold(Statement::new(begin), Statement::then).sql(";COMMIT");
        contention::run(|| self.send(&text)).await.map_err(|error| match error {
            None => LogError::Unknown(Error::new("no answer in time")),
            Some(error) if DB::verdict(&error) == Verdict::Refused => LogError::Refused(error.into()),
            Some(error) => LogError::Unknown(error.into()),
        })
    }

    async fn send(&self, text: &Statement) -> Result<(), sqlx::Error> {
        let _writer = DB::writer(self.kept.pool()).await;
        if let Some(connection) = self.kept.pop() {
            let mut held = UnitConnection::hold(connection);
            let answer = held.whole(text).await;
            // It may have died since its last use, and then nobody has read the text: a text that was carried out all the same finds
            // its rows there and is refused, or changes nothing a second time.
            if !matches!(&answer, Err(error) if DB::verdict(error) == Verdict::Unknown) {
                held.give_back(&self.kept);
                return answer;
            }
        }
        let mut held = UnitConnection::hold(self.kept.pool().acquire().await?);
        let answer = held.whole(text).await;
        held.give_back(&self.kept);
        answer
    }

    async fn standing(&self, gid: Gid) -> Result<Option<Option<Decision>>, LogError> {
        let select = Statement::new("SELECT decision FROM dtx_transaction WHERE gid=").text(gid.to_string());
        let (_, rows) = self.ask(&select).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(decision(DB::text(row, 0).map_err(unreadable)?)))
    }

    pub(super) async fn known(&self, gid: Gid) -> Result<Option<Known>, LogError> {
        let select = Statement::new(
            "SELECT t.decision,t.home,t.attempts,b.name,b.resource_id,b.resource_type,b.kind,b.status,\
             CASE WHEN t.finished_at IS NULL THEN 0 ELSE 1 END,",
        );
        let select = DB::since_1970(DB::since_1970(select, "t.started_at").sql(","), DB::NOW)
            .sql(" FROM dtx_transaction t LEFT JOIN dtx_branch b ON b.gid=t.gid WHERE t.gid=");
        let (_, rows) = self.ask(&select.text(gid.to_string()).sql(" ORDER BY b.ordinal")).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let known = || {
            let began = DB::maybe_int(first, 9)?.unwrap_or(0);
            let age = DB::maybe_int(first, 10)?.unwrap_or(0).saturating_sub(began);
            Ok::<_, sqlx::Error>(Known {
                gid,
                decision: decision(DB::text(first, 0)?),
                home: DB::int(first, 1)? != 0,
                attempts: u32::try_from(DB::int(first, 2)?).unwrap_or(u32::MAX),
                age: Duration::from_millis(u64::try_from(age).unwrap_or(0)),
                finished: DB::int(first, 8)? != 0,
                branches: rows
                    .iter()
                    .map(branch::<DB>)
                    .filter_map(Result::transpose)
                    .collect::<Result<_, _>>()?,
            })
        };
        known().map(Some).map_err(unreadable)
    }

    pub(super) async fn gids(&self, select: Statement) -> Result<Vec<Gid>, LogError> {
        let (_, rows) = self.ask(&select).await?;
        let gid = |row: &DB::Row| DB::text(row, 0).map(|text| text.and_then(|text| text.parse().ok()));
        let gids: Result<Vec<Option<Gid>>, _> = rows.iter().map(gid).collect();
        Ok(gids.map_err(unreadable)?.into_iter().flatten().collect())
    }
}

/// How what was rolled back ends: as cleaned up when it was aborted for its age.
fn cleaned_up<DB: Backend>(update: Statement) -> Statement {
    let stale = "=CASE WHEN decision_reason='stale_timeout' THEN ";
    let update = update.sql("status").sql(stale).sql("'cleaned_up' ELSE 'aborted' END,");
    let update = update.sql("cleaned_up_at").sql(stale).sql(DB::NOW).sql(" END,");
    update.sql("cleaned_up_reason").sql(stale).sql("decision_reason END,")
}

pub(super) fn unreadable(error: sqlx::Error) -> LogError {
    LogError::Refused(Error::from(error).context("a row of the decision log cannot be read"))
}

pub(super) fn decision(text: Option<String>) -> Option<Decision> {
    text.map(|text| if text == "commit" { Decision::Commit } else { Decision::Abort })
}

/// A row of the join; none of its branch columns when there is no branch.
fn branch<DB: Backend>(
    row: &DB::Row,
) -> Result<Option<(BranchRecord, crate::distributed::core::BranchState)>, sqlx::Error> {
    let Some(name) = DB::text(row, 3)? else { return Ok(None) };
    let resource = ResourceId::new(DB::text(row, 4)?.unwrap_or_default());
    let last = DB::text(row, 6)?.as_deref() == Some("last");
    let record = BranchRecord {
        name,
        resource: resource.map_err(|error| sqlx::Error::Decode(error.into()))?,
        resource_type: DB::text(row, 5)?.unwrap_or_default(),
        kind: if last { BranchKind::Last } else { BranchKind::TwoPhase },
    };
    Ok(Some((record, read(&DB::text(row, 7)?.unwrap_or_default()))))
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[async_trait]
impl<DB: Backend> DecisionLog for SqlDecisionLog<DB> {
    async fn coordinator(&self) -> Result<CoordinatorId, LogError> {
        let find = async || {
            let select = Statement::new("SELECT id,epoch FROM dtx_coordinator WHERE one=1");
            let (_, rows) = self.ask(&select).await?;
            let read = |row: &DB::Row| Ok((DB::id(row, 0)?, DB::int(row, 1)?));
            let found = rows.first().map(read).transpose().map_err(unreadable)?;
            Ok::<_, LogError>(
                found.map(|(id, epoch)| CoordinatorId { id, epoch: u32::try_from(epoch).unwrap_or(1) }),
            )
        };
        let look = async || {
            DB::check_schema(self.kept.pool()).await.map_err(LogError::Refused)?;
            if let Some(found) = find().await? {
                return Ok(found);
            }
            let insert =
                Statement::new("INSERT INTO dtx_coordinator(one,id)VALUES(1,").id(Uuid::now_v7()).sql(")");
            // Somebody else may have been first: then it is theirs.
            let inserted = self.ask(&insert).await;
            find().await?.ok_or_else(|| match inserted {
                Err(error) => error,
                Ok(_) => LogError::Refused(Error::new("the table dtx_coordinator lost its row")),
            })
        };
        self.coordinator.get_or_try_init(look).await.copied()
    }

    async fn open(&self, transaction: &NewTransaction) -> Result<(), LogError> {
        let coordinator = self.coordinator().await?;
        let gid = transaction.gid;
        let kind = match transaction.protocol {
            Protocol::TwoPhase => "2pc",
            Protocol::ThreePhase => "3pc",
        };
        let label = &transaction.label;
        let name = label.name.as_ref().map(TransactionName::as_str);
        let insert = Statement::new(
            "INSERT INTO dtx_transaction(name,tx_type,metadata,correlation_id,principal,gid,kind,coordinator_id,epoch,home,\
             status,deadline,next_run_at)VALUES(",
        );
        let insert = insert.opt_text(name).sql(",").opt_text(label.kind.as_deref()).sql(",");
        let insert = insert.opt_text(label.metadata.as_deref()).sql(",");
        let insert = insert.opt_text(label.correlation_id.as_deref()).sql(",");
        let insert = insert.opt_text(label.principal.as_ref().map(Principal::name)).sql(",");
        let insert =
            insert.text(gid.to_string()).sql(",").text(kind).sql(",").text(coordinator.id.to_string());
        let insert = insert.sql(",").int(coordinator.epoch.into()).sql(",").int(transaction.home.into());
        let deadline = millis(transaction.deadline);
        let insert = DB::later(DB::later(insert.sql(",'active',"), deadline).sql(","), deadline).sql(")");
        let mut statements = vec![insert];
        statements.extend(name.map(|name| name_is_free::<DB>(gid, name, transaction.name_kept_for)));
        for (ordinal, branch) in (0..).zip(&transaction.branches) {
            let insert = Statement::new(
                "INSERT INTO dtx_branch(gid,ordinal,name,kind,resource_id,resource_type,xid,status)VALUES(",
            );
            let kind = if branch.kind == BranchKind::Last { "last" } else { "two_phase" };
            let insert =
                insert.text(gid.to_string()).sql(",").int(i64::from(ordinal)).sql(",").text(&branch.name);
            let insert = insert.sql(",").text(kind).sql(",").text(branch.resource.as_str()).sql(",");
            let xid = BranchId { coordinator, gid, ordinal }.to_string();
            statements.push(insert.text(&branch.resource_type).sql(",").text(xid).sql(",'registered')"));
        }
        // A decision that is durable makes this durable, too: it comes later in the same server's log.
        self.write_from(if transaction.findable { DB::BEGIN_LAZY } else { DB::BEGIN }, statements).await
    }

    async fn decide(
        &self,
        gid: Gid,
        decision: Decision,
        read_only: &[u16],
        reason: &str,
    ) -> Result<Decision, LogError> {
        for place in read_only {
            self.ask(&left::<DB>(gid, *place)).await?;
        }
        let (word, status) = match decision {
            Decision::Commit => ("commit", "committing"),
            Decision::Abort => ("abort", "aborting"),
        };
        let update =
            Statement::new("UPDATE dtx_transaction SET decision=").text(word).sql(",status=").text(status);
        let update = update.sql(",decision_reason=").text(reason).sql(",decided_at=").sql(DB::NOW);
        let update = update.sql(" WHERE decision IS NULL AND gid=").text(gid.to_string());
        self.ask(&update).await?;
        match self.standing(gid).await? {
            Some(Some(standing)) => Ok(standing),
            // It was never written down, so nobody was asked to prepare; or it is over everywhere and forgotten.
            None => Ok(Decision::Abort),
            Some(None) => Err(LogError::Unknown(Error::new("the decision was written and cannot be seen"))),
        }
    }

    async fn close(&self, gid: Gid, closing: &Closing) -> Result<(), LogError> {
        let mut statements = Vec::new();
        for (place, state, error) in &closing.branches {
            let update = Statement::new("UPDATE dtx_branch SET status=").text(spelled(*state)).sql(",error=");
            let update = update.opt_text(error.as_deref()).sql(",updated_at=").sql(DB::NOW);
            let update = update.sql(" WHERE gid=").text(gid.to_string());
            statements.push(update.sql(" AND ordinal=").int((*place).into()));
        }
        let status = match (closing.outcome, closing.pending) {
            (Outcome::Heuristic(heuristic), _) => heuristic_status(heuristic),
            (Outcome::Committed, true) => "committing",
            (Outcome::Committed, false) => "committed",
            (Outcome::Aborted, true) | (Outcome::InDoubt, _) => "aborting",
            (Outcome::Aborted, false) => "aborted",
        };
        let open = closing.pending || closing.outcome == Outcome::InDoubt;
        let update = Statement::new("UPDATE dtx_transaction SET ");
        let update = match (closing.outcome, &closing.needs_help) {
            (_, Some(why)) if open => {
                update.sql("status='requires_manual_intervention',error_message=").text(why).sql(",")
            }
            // Whatever is written there now is nearer to the truth.
            (Outcome::InDoubt, _) => update,
            (Outcome::Aborted, _) if !open => cleaned_up::<DB>(update),
            _ => update.sql("status=").text(status).sql(","),
        };
        let update = if open {
            DB::later(update.sql("next_run_at="), millis(closing.again_in))
        } else {
            update.sql("finished_at=").sql(DB::NOW)
        };
        statements.push(update.sql(" WHERE finished_at IS NULL AND gid=").text(gid.to_string()));
        self.write_from(if closing.repeatable { DB::BEGIN_LAZY } else { DB::BEGIN }, statements).await
    }

    async fn claim(&self, count: u32, lease: Duration) -> Result<Vec<Known>, LogError> {
        let select =
            Statement::new("SELECT gid FROM dtx_transaction WHERE finished_at IS NULL AND next_run_at<=")
                .sql(DB::NOW)
                .sql(" ORDER BY next_run_at LIMIT ")
                .int(count.into());
        let mut claimed = Vec::new();
        for gid in self.gids(select).await? {
            let Some(known) = self.known(gid).await? else { continue };
            let update = Statement::new("UPDATE dtx_transaction SET attempts=attempts+1,next_run_at=");
            let update = DB::later(update, millis(lease)).sql(" WHERE finished_at IS NULL AND attempts=");
            let update = update.int(known.attempts.into()).sql(" AND gid=").text(gid.to_string());
            let (touched, _) = self.ask(&update).await?;
            if touched == 1 {
                claimed.push(known);
            }
        }
        Ok(claimed)
    }

    async fn load(&self, gid: Gid) -> Result<Option<Known>, LogError> {
        self.known(gid).await
    }

    async fn note(&self, gid: Gid, event: &str, data: &str) -> Result<(), LogError> {
        let insert = Statement::new("INSERT INTO dtx_event(gid,event,data)VALUES(").text(gid.to_string());
        let insert = insert.sql(",").text(event).sql(",").text(data).sql(")");
        self.ask(&insert).await.map(drop)
    }

    async fn finished(&self, count: u32, kept_for: Duration) -> Result<Vec<Known>, LogError> {
        let select = Statement::new("SELECT gid FROM dtx_transaction WHERE finished_at<");
        let select =
            DB::later(select, -millis(kept_for)).sql(" ORDER BY finished_at LIMIT ").int(count.into());
        let mut found = Vec::new();
        for gid in self.gids(select).await? {
            found.extend(self.known(gid).await?);
        }
        Ok(found)
    }

    async fn purge(&self, gid: Gid) -> Result<(), LogError> {
        let gone = |sql| Statement::new(sql).text(gid.to_string());
        let event = gone("DELETE FROM dtx_event WHERE gid=");
        self.write(vec![event, gone("DELETE FROM dtx_transaction WHERE finished_at IS NOT NULL AND gid=")])
            .await
    }
}
