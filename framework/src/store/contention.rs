//! Statements that lost against another one: had no effect, and may simply be run again.

use crate::limits::CALL_TIMEOUT;

/// How often a statement is run that lost against another one.
const TRIES: usize = 5;

/// Runs a statement that is complete in itself, again at once when it lost against another one, within the bound of every call.
/// `None`: there was no answer in time.
pub(crate) async fn run<T, F: Future<Output = Result<T, sqlx::Error>>>(
    statement: impl Fn() -> F,
) -> Result<T, Option<sqlx::Error>> {
    let retried = async {
        for _ in 1..TRIES {
            match statement().await {
                Err(error) if is_contention(&error) => {}
                result => return result,
            }
        }
        statement().await
    };
    tokio::time::timeout(CALL_TIMEOUT, retried).await.map_err(|_| None)?.map_err(Some)
}

/// Whether a statement lost against another one and had no effect: a deadlock, a lock wait, a busy file.
pub(crate) fn is_contention(error: &sqlx::Error) -> bool {
    let Some(answer) = error.as_database_error() else { return false };
    #[cfg(feature = "mysql")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // 1020: MariaDB's "record has changed since last read".
        return matches!(answer.number(), 1020 | 1205 | 1213);
    }
    let code = answer.code().unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // SQLITE_BUSY, SQLITE_LOCKED.
        return code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6));
    }
    matches!(code.as_ref(), "40001" | "40P01" | "55P03")
}

/// Whether an error comes from a statement that lost against another one.
pub(crate) fn lost_a_race(error: &crate::error::Error) -> bool {
    error.find::<sqlx::Error>().is_some_and(is_contention)
}
