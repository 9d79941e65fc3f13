//! What can go wrong between the relay and its source.

use super::HELD_KEYS_MAX;
use crate::lease::{Epoch, Holder};

/// What can go wrong between the relay and its source. No variant shows a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The database failed or was lost. The relay opens a new connection.
    #[error("source {source_name}: {doing} failed: {cause}")]
    Database {
        /// The source.
        source_name: String,
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        #[source]
        cause: sqlx::Error,
    },
    /// A column has a type or a value that this program does not read. Bring program and tables to the same version.
    #[error(
        "source {source_name}: {doing} failed: {cause}; the tables are of another version than this program, or somebody has \
         changed them: compare them with `barid-relay schema print`, and mend them or run `barid-relay schema apply`"
    )]
    Column {
        /// The source.
        source_name: String,
        /// What was being done.
        doing: &'static str,
        /// Which column, and what is wrong with it.
        #[source]
        cause: sqlx::Error,
    },
    /// No answer in time. The relay opens a new connection.
    #[error("source {source_name}: {doing} was not answered within {after_s} s")]
    Timeout {
        /// The source.
        source_name: String,
        /// What was being done.
        doing: &'static str,
        /// The bound.
        after_s: u64,
    },
    /// Another relay has taken over since; nothing was done. The relay that gets this stops publishing and waits.
    #[error("source {source_name}: {doing}: epoch {epoch} refused, {} is the owner: {newest}", newest.epoch)]
    Fenced {
        /// The source.
        source_name: String,
        /// What was refused.
        doing: &'static str,
        /// The epoch that it was tried with.
        epoch: Epoch,
        /// The newest owner.
        newest: Box<Holder>,
    },
    /// The address leads to a replica, whose snapshots are incomplete. Point it at the primary.
    #[error(
        "source {source_name}: {place} is a replica (pg_is_in_recovery), which cannot be read without losing rows; \
         set [source.{source_name}] url to the primary"
    )]
    Replica {
        /// The source.
        source_name: String,
        /// The address without credentials.
        place: String,
    },
    /// The address leads to a replica, and led to a primary before: a fail-over, or a name that is not up to date. The relay waits.
    #[error(
        "source {source_name}: {place} is a replica now (pg_is_in_recovery); waiting until it leads to the primary again"
    )]
    NoPrimary {
        /// The source.
        source_name: String,
        /// The address without credentials.
        place: String,
    },
    /// A transaction pooler sits between. Connect to the database itself, or through a session pool.
    #[error(
        "source {source_name}: {place} is a pooler in transaction mode (PgBouncer or the like): statements of one session end \
         on different backends, so neither the claim nor the snapshots can be trusted; set [source.{source_name}] url to \
         the database itself or to a pool in session mode"
    )]
    Pooler {
        /// The source.
        source_name: String,
        /// The address without credentials.
        place: String,
    },
    /// More keys are held by parked rows than can be remembered. Retry or skip parked rows first.
    #[error(
        "source {source_name}: {held} keys are held by parked messages, more than the {HELD_KEYS_MAX} that a relay keeps in \
         mind; see `barid-relay parked groups`, repair the cause, then `barid-relay parked retry` or `skip`, and start the \
         relay again"
    )]
    TooManyHeld {
        /// The source.
        source_name: String,
        /// How many.
        held: usize,
    },
    /// The table of somebody else cannot be read as it was described.
    #[error("source {source_name}: table {table} cannot be read as an outbox:\n  {}", problems.join("\n  "))]
    Table {
        /// The source.
        source_name: String,
        /// The table.
        table: String,
        /// Everything that is wrong: where it was said, what it is, what to do.
        problems: Vec<String>,
    },
    /// The database cannot be a source as it is.
    #[error("source {source_name}: {cause}; {remedy}")]
    Unsuitable {
        /// The source.
        source_name: String,
        /// Why not.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl SourceError {
    /// What a database said, or what could not be read of it.
    pub(super) fn said(source_name: String, doing: &'static str, cause: sqlx::Error) -> Self {
        match cause {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::Decode(_) => Self::Column { source_name, doing, cause },
            cause => Self::Database { source_name, doing, cause },
        }
    }

    /// Whether it was refused because another relay has taken over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { cause, .. } => !is_about_the_schema(cause),
            Self::Timeout { .. } | Self::NoPrimary { .. } => true,
            _ => false,
        }
    }
}

/// A table or column that is missing, or a permission: it needs a person.
fn is_about_the_schema(error: &sqlx::Error) -> bool {
    let Some(answer) = error.as_database_error() else { return false };
    let code = answer.code().unwrap_or_default();
    // PostgreSQL, then MariaDB and MySQL: unknown table, unknown column, no permission.
    matches!(&*code, "42P01" | "42703" | "42501" | "42S02" | "42S22" | "42000")
        || answer.message().starts_with("no such table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_new_connection_mends_ends_the_source_and_names_the_column() {
        let said = |cause| SourceError::said("main".to_owned(), "reading the outbox", cause);
        let index = || "payload of the row with seq 7".to_owned();
        for (cause, names) in [
            (sqlx::Error::ColumnDecode { index: index(), source: "no bytes".into() }, "no bytes"),
            (sqlx::Error::ColumnNotFound(index()), "payload of the row with seq 7"),
            (sqlx::Error::ColumnIndexOutOfBounds { index: 9, len: 9 }, "the len is 9"),
            (sqlx::Error::TypeNotFound { type_name: "hstore".to_owned() }, "hstore"),
            (sqlx::Error::Decode("no snapshot".into()), "no snapshot"),
        ] {
            let error = said(cause);
            let text = error.to_string();
            assert!(!error.is_transient(), "{text}");
            assert!(text.contains(names) && text.contains("barid-relay schema"), "{text}");
        }
        for cause in [sqlx::Error::PoolTimedOut, sqlx::Error::Protocol("cut off".to_owned())] {
            assert!(said(cause).is_transient());
        }
    }
}
