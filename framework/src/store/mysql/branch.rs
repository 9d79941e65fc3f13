//! Branches on MariaDB and MySQL: XA.
//!
//! On MariaDB a prepared transaction belongs to its session until that ends: nobody else can end it, and the session can do nothing
//! else. So the session stays with the branch, which ends it there, or closes it and goes by the name. A statement that failed does
//! not doom an XA transaction by itself: that is what the poisoned flag of the connection is for.
//!
//! Who ends it by its name must come after its session: at the moment at which that ends, MariaDB (10.11, 11.x) answers Ok, ends
//! nothing and does not list the branch any more, which keeps its locks until a restart of the server lists it again. So a session
//! has a lock under the branch's name, which nobody else takes, and who ends the branch by its name waits until that is free. What slips
//! through all the same is found by the lock on its marker, see [`SqlResource`](super::super::distributed::branch::SqlResource).

use std::time::Duration;

use sqlx::{
    MySql, Row,
    mysql::{MySqlQueryResult, MySqlRow},
};

use super::{text::Text, unit::number};
use crate::{
    distributed::{Ack, BranchId, CoordinatorId, Decision, Heuristic, Pressure, RmError, Vote},
    store::{
        backend::{Backend, Verdict},
        connection::UnitConnection,
        distributed::{DtxRows, branch::TwoPhase, marker},
        shared,
        statement::Statement,
    },
};

/// "bard": says in `XA RECOVER` whose they are.
pub(super) const FORMAT: i64 = 0x6261_7264;

/// XAER_NOTA: no such transaction, or the session that prepared it still lives.
const NOT_FOUND: u16 = 1397;
/// XA_RBROLLBACK and its like: it has rolled back.
const ROLLED_BACK: [u16; 3] = [1402, 1613, 1614];

/// How often and how long a branch is waited for whose session is being closed right now.
const SESSION_TRIES: u32 = 20;
const SESSION_PAUSE: Duration = Duration::from_millis(50);

/// How long after a session let go of its lock its branch is its own. The server needs some microseconds.
const DETACH_PAUSE: Duration = Duration::from_millis(20);

/// Letters, digits, `.` and `-` only: the transaction, and the log with the place of the branch.
fn xid(branch: &BranchId) -> String {
    format!("'{}','{}.{}',{FORMAT}", branch.gid.0.simple(), branch.coordinator, branch.ordinal)
}

/// The name of the lock that the session of a branch has. MySQL takes no more than 64 bytes.
fn lock(branch: &BranchId) -> String {
    format!("'barid.{}.{}'", branch.gid.0.simple(), branch.ordinal)
}

fn parse(gtrid: &str, bqual: &str) -> Option<BranchId> {
    let (coordinator, ordinal) = bqual.rsplit_once('.')?;
    BranchId::parse(&format!("barid:{coordinator}:{}:{ordinal}", uuid::Uuid::try_parse(gtrid).ok()?))
}

impl TwoPhase for MySql {
    const KEEPS_SESSION: bool = true;

    async fn begin(connection: &mut UnitConnection<Self>, branch: &BranchId) -> Result<(), sqlx::Error> {
        // MySQL, where a comment follows the `M!`, has no need of the lock.
        let text = format!("XA START {};DO /*M! GET_LOCK({},0)+*/0", xid(branch), lock(branch));
        connection.say(text, true).await
    }

    async fn prepare(connection: &mut UnitConnection<Self>, branch: &BranchId) -> Result<Vote, RmError> {
        // The marker makes every branch a write: one without any is rolled back at its commit.
        let mut text = String::new();
        marker(branch).render::<Text>(&mut text);
        let id = xid(branch);
        text.push_str(&format!(";XA END {id}"));
        if let Err(error) = connection.say(text, true).await {
            // Nothing was asked to prepare, so the end of the session is the end of the branch.
            return Ok(Vote::No { reason: refusal(&error) });
        }
        match connection.say(format!("XA PREPARE {id}"), true).await {
            Ok(()) => Ok(Vote::Prepared),
            Err(error) if number(&error).is_some_and(|number| ROLLED_BACK.contains(&number)) => {
                Ok(Vote::No { reason: error.to_string() })
            }
            Err(error) => Err(RmError::Unknown(format!("XA PREPARE: {error}"))),
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
        let text = format!("XA {verb} {};DO /*M! RELEASE_LOCK({})+*/0", xid(branch), lock(branch));
        for _ in 0..SESSION_TRIES {
            let error = match connection.say(text.clone(), false).await {
                Ok(()) => return Ok(Some(Ack::Done)),
                Err(error) => error,
            };
            match number(&error) {
                Some(NOT_FOUND) => {}
                Some(code) if ROLLED_BACK.contains(&code) => {
                    return Ok(Some(match decision {
                        Decision::Commit => Ack::Heuristic(Heuristic::RolledBack),
                        Decision::Abort => Ack::Done,
                    }));
                }
                _ => return Err(Self::classify(&error)),
            }
            let coordinator = branch.coordinator;
            let listed =
                Self::prepared(connection, coordinator).await.map_err(|error| Self::classify(&error))?;
            if !listed.contains(branch) {
                return Ok(None);
            }
            tokio::time::sleep(SESSION_PAUSE).await;
        }
        Err(still_connected(None))
    }

    async fn end_by_name(
        connection: &mut UnitConnection<Self>,
        branch: &BranchId,
        decision: Decision,
    ) -> Result<Option<Ack>, RmError> {
        let look = format!("XA RECOVER;SELECT CAST(/*M! IS_USED_LOCK({})+*/0 AS SIGNED)", lock(branch));
        let mut session = None;
        for _ in 0..SESSION_TRIES {
            let answers = shared::answers::<Self>(live(connection)?, look.clone()).await;
            let answers = answers.map_err(|error| Self::classify(&error))?;
            let (listed, used) = state(&answers, branch).map_err(|error| Self::classify(&error))?;
            if !listed {
                return Ok(None);
            }
            let Some(holder) = used else {
                tokio::time::sleep(DETACH_PAUSE).await;
                return Self::end(connection, branch, decision).await;
            };
            session = Some(holder);
            tokio::time::sleep(SESSION_PAUSE).await;
        }
        Err(still_connected(session))
    }

    async fn prepared(
        connection: &mut UnitConnection<Self>,
        coordinator: CoordinatorId,
    ) -> Result<Vec<BranchId>, sqlx::Error> {
        let (_, rows) = connection.alone(&Statement::new("XA RECOVER")).await?;
        found(&rows, coordinator)
    }

    async fn unfit(connection: &mut UnitConnection<Self>) -> Result<Option<String>, sqlx::Error> {
        let version = version(connection).await?;
        Ok(is_too_old(&version).then(|| too_old(&version)))
    }

    async fn examine(connection: &mut UnitConnection<Self>) -> Result<Result<String, String>, sqlx::Error> {
        let version = version(connection).await?;
        // Asking is the test: MySQL wants the right XA_RECOVER_ADMIN for it.
        let listed = shared::answers::<Self>(connection.live()?, "XA RECOVER".to_owned()).await;
        Ok(match (listed, is_too_old(&version)) {
            (Err(error), _) => Err(format!("{error}: grant XA_RECOVER_ADMIN to the role of recovery")),
            (_, true) => Err(too_old(&version)),
            (Ok(_), false) => Ok(version),
        })
    }

    /// The server has neither a bound nor the time at which they were prepared.
    async fn pressure(connection: &mut UnitConnection<Self>) -> Result<Pressure, sqlx::Error> {
        let (_, rows) = connection.alone(&Statement::new("XA RECOVER")).await?;
        Ok(Pressure { used: rows.len() as u64, ..Pressure::default() })
    }

    fn classify(error: &sqlx::Error) -> RmError {
        let text = refusal(error);
        match number(error) {
            Some(1227 | 1142 | 1045 | 1401) => RmError::Config(text),
            // Locks; too many connections; the session is in another transaction (XAER_RMFAIL, XAER_OUTSIDE).
            Some(1205 | 1213 | 1040 | 1203 | 1399 | 1400) => RmError::Retryable(text),
            Some(_) if Self::verdict(error) == Verdict::Refused => RmError::Permanent(text),
            _ => RmError::Unknown(text),
        }
    }
}

/// The branches of this log in the answer to XA RECOVER.
fn found(rows: &[MySqlRow], coordinator: CoordinatorId) -> Result<Vec<BranchId>, sqlx::Error> {
    let mut found = Vec::new();
    for row in rows {
        let (format, gtrid) = (row.try_get_unchecked::<i64, _>(0)?, row.try_get_unchecked::<i64, _>(1)?);
        let data = row.try_get_unchecked::<Vec<u8>, _>(3)?;
        let split = usize::try_from(gtrid).unwrap_or(0).min(data.len());
        let (gtrid, bqual) = data.split_at(split);
        let branch = std::str::from_utf8(gtrid).ok().zip(std::str::from_utf8(bqual).ok());
        let branch = branch.and_then(|(gtrid, bqual)| parse(gtrid, bqual));
        found.extend(branch.filter(|branch| format == FORMAT && branch.coordinator == coordinator));
    }
    Ok(found)
}

/// Whether a branch is prepared, and the session that has its lock.
fn state(
    answers: &[(MySqlQueryResult, Vec<MySqlRow>)],
    branch: &BranchId,
) -> Result<(bool, Option<i64>), sqlx::Error> {
    let [(_, prepared), (_, used)] = answers else { return Err(sqlx::Error::RowNotFound) };
    let session = used.first().map(|row| MySql::maybe_int(row, 0)).transpose()?.flatten();
    // 0: MySQL, which has not looked.
    Ok((found(prepared, branch.coordinator)?.contains(branch), session.filter(|session| *session != 0)))
}

fn live(connection: &mut UnitConnection<MySql>) -> Result<&mut sqlx::MySqlConnection, RmError> {
    connection.live().map_err(|error| RmError::Retryable(error.to_string()))
}

fn still_connected(session: Option<i64>) -> RmError {
    let (session, kill) = match session {
        Some(id) => (format!("session {id}"), format!(": when its process or host is gone, KILL {id}")),
        None => ("the session".to_owned(), String::new()),
    };
    RmError::Retryable(format!(
        "{session} that prepared the branch is still connected; the branch is free once it ends{kill}"
    ))
}

fn refusal(error: &sqlx::Error) -> String {
    match number(error) {
        Some(1062) if error.to_string().contains("barid:") => {
            format!("{error}: the branch was rolled back before it was prepared")
        }
        _ => error.to_string(),
    }
}

async fn version(connection: &mut UnitConnection<MySql>) -> Result<String, sqlx::Error> {
    let (_, rows) = connection.alone(&Statement::new("SELECT VERSION()")).await?;
    Ok(rows.first().map(|row| MySql::text(row, 0)).transpose()?.flatten().unwrap_or_default())
}

fn too_old(version: &str) -> String {
    format!(
        "MariaDB {version} rolls prepared transactions back when their session ends: use MariaDB 10.5 or newer"
    )
}

/// MariaDB before 10.5. MySQL keeps them since 5.7.
pub(super) fn is_too_old(version: &str) -> bool {
    // Some MariaDB servers put a 5.5.5 in front of their version.
    let own = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = own.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version.contains("MariaDB") && (major, minor) < (10, 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Gid;

    #[test]
    fn a_branch_fits_and_is_read_back() {
        let coordinator = CoordinatorId { id: uuid::Uuid::now_v7(), epoch: u32::MAX };
        let branch = BranchId { coordinator, gid: Gid::fresh(), ordinal: u16::MAX };
        let xid = xid(&branch);
        let parts: Vec<&str> = xid.split(['\'', ',']).filter(|part| !part.is_empty()).collect();
        let [gtrid, bqual, _] = parts[..] else { panic!("{xid}") };
        assert!(gtrid.len() <= 64 && bqual.len() <= 64, "{xid}");
        assert_eq!(parse(gtrid, bqual), Some(branch));
        assert!(lock(&branch).len() <= 66, "{}", lock(&branch));
    }

    #[test]
    fn what_forgets_prepared_transactions_is_refused() {
        for (version, too_old) in [
            ("10.4.32-MariaDB", true),
            ("5.5.5-10.3.1-MariaDB-log", true),
            ("10.5.0-MariaDB", false),
            ("11.4.2-MariaDB-deb12", false),
            ("8.0.36", false),
        ] {
            assert_eq!(is_too_old(version), too_old, "{version}");
        }
    }
}
