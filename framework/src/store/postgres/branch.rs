//! Branches on PostgreSQL: `PREPARE TRANSACTION`.
//!
//! Once prepared, the transaction belongs to nobody: its session is free at once, and any session of the same role and database can
//! end it. PREPARE says Ok in a transaction that the server has rolled back, so it follows an insert that would fail there, and the
//! server is asked whether the branch exists.

use sqlx::{Postgres, Row, error::DatabaseError};

use super::text::Text;
use crate::{
    distributed::{Ack, BranchId, CoordinatorId, Decision, Pressure, RmError, Vote},
    store::{
        backend::{Backend, Verdict},
        connection::UnitConnection,
        distributed::{DtxRows, branch::TwoPhase, marker},
        shared,
        statement::{Opening, Statement},
    },
};

/// Fails when the transaction was ended by hand.
const RELEASE: &str = "RELEASE SAVEPOINT barid_unit;";

/// Asked with the release of the savepoint. In a serializable transaction even a
/// branch that wrote nothing must hold what it has read until the others are decided.
const WROTE: &str = "RELEASE SAVEPOINT barid_unit;SELECT pg_current_xact_id_if_assigned()IS NOT NULL \
                     OR current_setting('transaction_isolation')='serializable'";

impl TwoPhase for Postgres {
    const KEEPS_SESSION: bool = false;

    async fn begin(connection: &mut UnitConnection<Self>, _: &BranchId) -> Result<(), sqlx::Error> {
        connection.open(&Opening::default()).await.map(drop)
    }

    async fn prepare(connection: &mut UnitConnection<Self>, branch: &BranchId) -> Result<Vote, RmError> {
        let no = |error: sqlx::Error| Ok(Vote::No { reason: refusal(&error) });
        let mut text = String::new();
        if connection.wrote() {
            text.push_str(RELEASE);
        } else {
            // Before PREPARE is sent every error, a lost connection too, means that the branch rolls back.
            match ask_whether_it_wrote(connection).await {
                Ok(true) => {}
                Ok(false) => {
                    return match connection.say("COMMIT".to_owned(), false).await {
                        Ok(()) => Ok(Vote::ReadOnly),
                        Err(error) => no(error),
                    };
                }
                Err(error) => return no(error),
            }
        }
        marker(branch).render::<Text>(&mut text);
        // Letters, digits and a few signs, see `BranchId`.
        text.push_str(&format!(
            ";PREPARE TRANSACTION '{branch}';SELECT 1 FROM pg_prepared_xact()WHERE gid='{branch}'"
        ));
        let live = match connection.live() {
            Ok(live) => live,
            Err(error) => return no(error),
        };
        match shared::answers::<Self>(live, text).await {
            Ok(answers) if answers.last().is_some_and(|(_, rows)| rows.len() == 1) => {
                connection.ended();
                Ok(Vote::Prepared)
            }
            // Recovery can have ended it already; otherwise the server rolled back silently.
            Ok(_) => Err(RmError::Unknown(
                "PREPARE TRANSACTION was answered, and there is no such branch".to_owned(),
            )),
            Err(error) if is_refused(&error) => no(error),
            Err(error) => Err(RmError::Unknown(format!("PREPARE TRANSACTION: {error}"))),
        }
    }

    async fn end(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
        decision: Decision,
    ) -> Result<Option<Ack>, RmError> {
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Abort => "ROLLBACK",
        };
        match connection.say(format!("{verb} PREPARED '{branch}'"), false).await {
            Ok(()) => Ok(Some(Ack::Done)),
            // undefined_object: it was ended before, or is not prepared.
            Err(error) if code(&error).as_deref() == Some("42704") => Ok(None),
            Err(error) => Err(Self::classify(&error)),
        }
    }

    async fn prepared(
        connection: &mut UnitConnection<Self>,
        coordinator: CoordinatorId,
    ) -> Result<Vec<BranchId>, sqlx::Error> {
        // The view shows the whole cluster, and only here can they be ended.
        let select = Statement::new(
            "SELECT gid FROM pg_prepared_xacts WHERE database=current_database()AND starts_with(gid,",
        );
        let (_, rows) = connection.alone(&select.text(BranchId::prefix(coordinator)).sql(")")).await?;
        let names: Result<Vec<_>, _> = rows.iter().map(|row| Self::text(row, 0)).collect();
        Ok(names?.into_iter().flatten().filter_map(|name| BranchId::parse(&name)).collect())
    }

    async fn unfit(connection: &mut UnitConnection<Self>) -> Result<Option<String>, sqlx::Error> {
        let select = Statement::new("SELECT current_setting('max_prepared_transactions')::bigint");
        let (_, rows) = connection.alone(&select).await?;
        let slots = rows.first().map(|row| Self::int(row, 0)).transpose()?;
        Ok((slots == Some(0)).then(|| DISABLED.to_owned()))
    }

    async fn examine(connection: &mut UnitConnection<Self>) -> Result<Result<String, String>, sqlx::Error> {
        let select = Statement::new(
            "SELECT current_setting('max_prepared_transactions')::bigint,(SELECT count(*)FROM pg_prepared_xacts)",
        );
        let (_, rows) = connection.alone(&select).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (slots, used) = (Self::int(row, 0)?, Self::int(row, 1)?);
        Ok(match slots {
            0 => Err(DISABLED.to_owned()),
            slots if used >= slots => Err(format!("all {slots} {EXHAUSTED}")),
            slots => Ok(format!("{used} of {slots} prepared transactions in use")),
        })
    }

    async fn pressure(connection: &mut UnitConnection<Self>) -> Result<Pressure, sqlx::Error> {
        let select = Statement::new(
            "SELECT count(*),current_setting('max_prepared_transactions')::bigint,\
             (extract(epoch from now()-min(prepared)FILTER(WHERE database=current_database()))*1000)::bigint FROM pg_prepared_xacts",
        );
        let (_, rows) = connection.alone(&select).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let number =
            |at| Ok::<_, sqlx::Error>(Self::maybe_int(row, at)?.and_then(|int| u64::try_from(int).ok()));
        let oldest = number(2)?.map(std::time::Duration::from_millis);
        Ok(Pressure { used: number(0)?.unwrap_or(0), room: number(1)?, oldest })
    }

    fn classify(error: &sqlx::Error) -> RmError {
        let text = refusal(error);
        match code(error).as_deref() {
            // Not the owner; prepared in another database.
            Some("42501" | "0A000") => RmError::Config(text),
            // Another session is ending it; locks; out of resources.
            Some("55000" | "55P03" | "40001" | "40P01") => RmError::Retryable(text),
            Some(code) if code.starts_with("53") => RmError::Retryable(text),
            Some(_) if Self::verdict(error) == Verdict::Refused => RmError::Permanent(text),
            _ => RmError::Unknown(text),
        }
    }
}

/// Asked when no statement is known to have written: it may have been a function that did.
async fn ask_whether_it_wrote(connection: &mut UnitConnection<Postgres>) -> Result<bool, sqlx::Error> {
    let answers = shared::answers::<Postgres>(connection.live()?, WROTE.to_owned()).await?;
    let row = answers.last().and_then(|(_, rows)| rows.first()).ok_or(sqlx::Error::RowNotFound)?;
    row.try_get(0)
}

pub(super) const DISABLED: &str = "prepared transactions are disabled on this server: set max_prepared_transactions to at least the number of \
                        transactions at once (and on its standbys), and restart it";
pub(super) const EXHAUSTED: &str = "slots for prepared transactions are in use: look for forgotten ones in pg_prepared_xacts, or raise \
                         max_prepared_transactions and restart the server";

/// Why, with the remedy where there is one.
fn refusal(error: &sqlx::Error) -> String {
    let remedy = match code(error).as_deref() {
        Some("55000") if error.to_string().contains("disabled") => DISABLED,
        Some("53200" | "53400") if error.to_string().contains("prepared") => EXHAUSTED,
        Some("42501") => "use the role that prepared the transaction, in every process",
        Some("23505") if error.to_string().contains("dtx_marker") => {
            "the branch was rolled back before it was prepared"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}

/// Whether the server said that it did not prepare. It rolls back then.
fn is_refused(error: &sqlx::Error) -> bool {
    let Some(code) = code(error) else { return false };
    matches!(&*code, "55000" | "0A000" | "25P01" | "25P02" | "3B001" | "42710" | "42P01" | "42501")
        || ["23", "40", "53"].iter().any(|class| code.starts_with(class)) && code != "40003"
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(Into::into)
}
