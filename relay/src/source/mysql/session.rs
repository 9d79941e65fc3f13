//! Opening sessions.

use sqlx::{ConnectOptions, Executor, MySqlConnection};

use super::MySqlSource;
use crate::source::SourceError;

/// READ COMMITTED: no gap locks for deletes, and every statement sees what is committed when it begins.
const SETTINGS: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Opens a session.
pub(super) async fn open(source: &MySqlSource) -> Result<MySqlConnection, SourceError> {
    let at = source.at();
    let mut session = at.bounded("connecting", source.options.connect()).await?;
    at.bounded("opening a session", session.execute(SETTINGS)).await?;
    Ok(session)
}
