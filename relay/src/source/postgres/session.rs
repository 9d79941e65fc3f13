//! Opening sessions: the settings that they need, and what they refuse.

use std::sync::atomic::Ordering;

use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};

use super::{
    PostgresSource,
    foreign::{self, Plan},
};
use crate::source::SourceError;

/// What every session of the relay sets. A dead relay's backend must not keep its locks for hours: the server gives up on a
/// silent peer after about ten seconds.
const SETTINGS: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
    SET tcp_user_timeout = 10000; SET default_transaction_isolation = 'read committed'; \
    SET idle_in_transaction_session_timeout = 60000; ";

/// The planner's statistics of a queue table are always wrong: without this it may read the whole table for a window.
const READER_SETTINGS: &str = "SET enable_seqscan = off";

/// Losing an acknowledged DELETE to a crash of the server causes a duplicate, never a loss.
///
/// Parking holds the epoch while it waits for the rows, and with it whoever renews the lease: so it does not wait for long.
const WRITER_SETTINGS: &str = "SET synchronous_commit = off; SET lock_timeout = 5000";

/// An epoch that was given out must not be given out again after a crash of the server.
const LEASE_SETTINGS: &str = "SET synchronous_commit = on; SET statement_timeout = 10000";

/// Opens a session for reading.
pub(super) async fn reader(source: &PostgresSource) -> Result<PgConnection, SourceError> {
    let (mut session, _) = connect(source, READER_SETTINGS).await?;
    refuse_a_replica(source, &mut session).await?;
    refuse_a_pooler(source, &mut session).await?;
    Ok(session)
}

/// Opens a session for the lease.
pub(super) async fn leases(source: &PostgresSource) -> Result<PgConnection, SourceError> {
    let (mut session, _) = connect(source, LEASE_SETTINGS).await?;
    // Here already: on a replica the lease fails like on any server that only reads for a while, and behind a pooler for reasons
    // that name nothing; both would be waited for.
    refuse_a_replica(source, &mut session).await?;
    refuse_a_pooler(source, &mut session).await?;
    Ok(session)
}

/// Opens a session for deleting and parking; with what is known about a table of somebody else.
pub(super) async fn writer(source: &PostgresSource) -> Result<(PgConnection, Option<Plan>), SourceError> {
    connect(source, WRITER_SETTINGS).await
}

async fn connect(
    source: &PostgresSource,
    settings: &str,
) -> Result<(PgConnection, Option<Plan>), SourceError> {
    let at = source.at();
    let mut session = at.bounded("connecting", source.options.connect()).await?;
    let text = sqlx::AssertSqlSafe(format!("{SETTINGS}{settings}"));
    at.bounded("opening a session", session.execute(sqlx::raw_sql(text))).await?;
    let Some(mapping) = &source.table else { return Ok((session, None)) };
    let plan = foreign::plan(at, &mut session, mapping).await?;
    foreign::see_as_outbox(at, &mut session, &plan).await?;
    Ok((session, Some(plan)))
}

async fn refuse_a_replica(source: &PostgresSource, session: &mut PgConnection) -> Result<(), SourceError> {
    // As text, like everything before a pooler is ruled out: prepared statements fail behind one for reasons that name nothing.
    let asked = session.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()"));
    let (source_name, place) = (source.name.clone(), source.place());
    match source.at().bounded("asking whether this is a replica", asked).await?.get(0) {
        false => source.led_to_primary.store(true, Ordering::Relaxed),
        // A mistake at the start is worth a refusal. Later it is a fail-over that has not ended.
        true if source.led_to_primary.load(Ordering::Relaxed) => {
            return Err(SourceError::NoPrimary { source_name, place });
        }
        true => return Err(SourceError::Replica { source_name, place }),
    }
    Ok(())
}

/// In a transaction pool a session has no backend of its own: a second session that opens a transaction gets the backend that
/// the first one has just used, together with the settings that the first one made there.
async fn refuse_a_pooler(source: &PostgresSource, session: &mut PgConnection) -> Result<(), SourceError> {
    let at = source.at();
    let mark = uuid::Uuid::now_v7().to_string();
    let first: i32 = at
        .bounded("marking the session", async {
            // A UUID and nothing else goes into the text.
            let marking = format!("SELECT pg_backend_pid(), set_config('barid.session', '{mark}', false)");
            session.fetch_one(sqlx::raw_sql(sqlx::AssertSqlSafe(marking))).await?.try_get(0)
        })
        .await?;
    let mut other = at.bounded("connecting", source.options.connect()).await?;
    let shared = async {
        other.execute(sqlx::raw_sql("BEGIN")).await?;
        let seen = "SELECT pg_backend_pid(), coalesce(current_setting('barid.session', true), '')";
        let row = other.fetch_one(sqlx::raw_sql(seen)).await?;
        let (pid, found): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        let mut shared = pid == first || found == mark;
        if !shared {
            // While the other session holds its backend, this one must still be on its own.
            let own = session.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?;
            shared = own.try_get::<i32, _>(0)? != first;
        }
        other.execute(sqlx::raw_sql("ROLLBACK")).await?;
        Ok(shared)
    };
    let shared = at.bounded("looking for a pooler", shared).await?;
    at.bounded("closing a session", other.close()).await?;
    if shared {
        return Err(SourceError::Pooler { source_name: source.name.clone(), place: source.place() });
    }
    Ok(())
}
