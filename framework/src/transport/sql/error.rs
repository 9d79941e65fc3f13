//! What a database's error means for the queue. The only place that knows codes.

use crate::{
    store::held::CommitError,
    transport::{Outcome, TransportError},
};

/// The error of a statement, for whoever declares or receives.
pub(super) fn failed(place: &str, error: &sqlx::Error) -> TransportError {
    let (broker, cause) = (place.to_owned(), error.to_string());
    match error {
        sqlx::Error::Database(answer) if is_missing_table(answer.as_ref()) => TransportError::Misconfigured {
            what: format!("SQL queue at {broker}"),
            cause,
            remedy: "the tables are missing, run: barid-relay schema apply".to_owned(),
        },
        sqlx::Error::Database(answer) if answer.code().is_some_and(|code| code.starts_with("28")) => {
            TransportError::Refused { broker, cause }
        }
        sqlx::Error::Database(answer) if answer.code().is_some_and(|code| code.starts_with("57P")) => {
            TransportError::Lost { broker, cause }
        }
        sqlx::Error::Database(_) => TransportError::Database(format!("{broker}: {cause}")),
        sqlx::Error::PoolTimedOut => TransportError::Unreachable { broker, cause },
        _ => TransportError::Lost { broker, cause },
    }
}

/// What became of rows whose statement failed before COMMIT was sent: they are certainly not there.
pub(super) fn not_written(error: &sqlx::Error) -> Outcome {
    match error.as_database_error() {
        Some(answer) if refuses_the_row(answer) => Outcome::Permanent(error.to_string()),
        _ => Outcome::Transient(error.to_string()),
    }
}

/// What became of rows whose COMMIT failed.
pub(super) fn not_committed(error: &CommitError) -> Outcome {
    match error {
        CommitError::NotCommitted(_) => Outcome::Transient(error.to_string()),
        CommitError::Unknown(_) => Outcome::Unknown(error.to_string()),
    }
}

/// Whether it is the row that the database does not want, and never will.
fn refuses_the_row(answer: &dyn sqlx::error::DatabaseError) -> bool {
    #[cfg(feature = "mysql")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // Packet too large, wrong character, too long, invalid JSON, CHECK constraint (MySQL's and MariaDB's).
        return matches!(answer.number(), 1153 | 1366 | 1406 | 3140 | 3819 | 4025);
    }
    let code = answer.code().unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT.
        return code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 18 | 19));
    }
    // Data exception, integrity constraint, program limit exceeded.
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

fn is_missing_table(answer: &dyn sqlx::error::DatabaseError) -> bool {
    matches!(answer.code().as_deref(), Some("42P01" | "42S02"))
        || answer.message().starts_with("no such table")
}
