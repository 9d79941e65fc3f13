//! Opening sessions, and the claim.

use sqlx::{ConnectOptions, Executor, MySqlConnection};

use super::MySqlSource;
use crate::source::{Claim, SourceError};

/// READ COMMITTED: no gap locks for deletes, and every statement sees what is committed when it begins.
const SETTINGS: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// The lock belongs to the session and ends with it. Its name holds the database, because user locks are per server.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('barid-relay:', SHA1(DATABASE())), 0)";

/// Opens a session.
pub(super) async fn open(source: &MySqlSource) -> Result<MySqlConnection, SourceError> {
    let at = source.at();
    let mut session = at.bounded("connecting", source.options.connect()).await?;
    at.bounded("opening a session", session.execute(SETTINGS)).await?;
    Ok(session)
}

/// Takes the outbox for this process; the epoch tells whether somebody else had it in between.
pub(super) async fn claim(source: &MySqlSource, session: &mut MySqlConnection) -> Result<Claim, SourceError> {
    let at = source.at();
    let locked = sqlx::query_scalar(LOCK).fetch_one(&mut *session);
    let locked: Option<i64> = at.bounded("claiming the outbox", locked).await?;
    if locked != Some(1) {
        return Err(SourceError::Busy { source_name: source.name.clone() });
    }
    // Assignments happen from left to right: the epoch looks at the owner that was.
    let enter = sqlx::query(
        "INSERT INTO relay_source (source, epoch, owner) VALUES (?, 1, ?) ON DUPLICATE KEY UPDATE \
         epoch = epoch + IF(owner = VALUES(owner), 0, 1), owner = VALUES(owner), updated_at = UTC_TIMESTAMP(6)",
    );
    let enter = enter.bind(&source.name).bind(&source.owner).execute(&mut *session);
    at.bounded("entering the claim", enter).await?;
    let epoch = sqlx::query_scalar("SELECT epoch FROM relay_source WHERE source = ?");
    let epoch = epoch.bind(&source.name).fetch_one(session);
    Ok(Claim { epoch: at.bounded("reading the claim", epoch).await? })
}
