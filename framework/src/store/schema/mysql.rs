//! Applies the schema to MariaDB and MySQL, behind a named lock.
//!
//! There is no transaction around DDL here: each `CREATE TABLE` commits by itself. The files therefore say `IF NOT EXISTS`,
//! and a run that was interrupted is finished by the next one; and each step is followed by a look at the columns, because
//! `IF NOT EXISTS` would take any table of that name for ours.

use sqlx::{Connection, Executor, MySqlConnection, MySqlPool};

use super::{APPLY_WAIT_S, Migration, SchemaError, bookkeeping, compare, migrations};
use crate::store::pool::Dialect;

/// The lock's name holds the database's, because such names are the server's; hashed, because they have 64 characters at most.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('barid_schema_', MD5(DATABASE())), ?)";

/// What each step must have made: version, and a statement that fails when a column is not there.
const COLUMNS: &[(u32, &str)] = &[
    (
        1,
        "SELECT seq, id, created_at, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext \
         FROM outbox LIMIT 0",
    ),
    (2, "SELECT message_id, scope, handled_at, reply FROM idempotency LIMIT 0"),
    (3, "SELECT message_id, scope, attempts, errors, updated_at FROM attempts LIMIT 0"),
    (4, "SELECT queue, declared_at FROM queue_declared LIMIT 0"),
    (4, "SELECT topic, queue FROM queue_subscription LIMIT 0"),
    (
        4,
        "SELECT seq, queue, id, ordering_key, headers, body, visible_at, claimed_by, claimed_until, deliveries, created_at \
         FROM queue_message LIMIT 0",
    ),
    (5, "SELECT source, epoch, owner, lease_until, updated_at FROM relay_source LIMIT 0"),
    (
        5,
        "SELECT source, id, seq, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext, \
         created_at, state, attempts, last_error, parked_at FROM relay_parked LIMIT 0",
    ),
    (
        6,
        "SELECT id, due_at, created_at, message_id, destination, aggregatetype, aggregateid, `type`, payload, headers, \
         tracingspancontext FROM schedule LIMIT 0",
    ),
    (
        7,
        "SELECT id, saga, revision, data, timeouts, completed_at, last_message_id, created_at, updated_at FROM saga LIMIT 0",
    ),
    (7, "SELECT id, saga, property, value FROM saga_correlation LIMIT 0"),
    (9, "SELECT message_id, state, name, content_type, data, problem, bus, handled_at FROM result LIMIT 0"),
    (9, "SELECT key_id, scope, last, token, handled_at FROM high_water LIMIT 0"),
    (10, "SELECT process, renewals, lease_ms FROM relay_source LIMIT 0"),
    (11, "SELECT source, times FROM relay_released LIMIT 0"),
    (
        11,
        "SELECT id, changed_at, source, who, db_user, action, selection, messages, reason FROM relay_audit LIMIT 0",
    ),
    (11, "SELECT fingerprint FROM relay_parked LIMIT 0"),
    (13, "SELECT stream, version, reserved_by FROM event_stream LIMIT 0"),
    (
        13,
        "SELECT seq, position, id, stream, version, name, data, metadata, recorded_at FROM event_log LIMIT 0",
    ),
    (13, "SELECT id, last FROM event_order LIMIT 0"),
    (13, "SELECT stream, format, version, data, taken_at FROM event_snapshot LIMIT 0"),
    (13, "SELECT subscription, position, owner, lease_until, updated_at FROM event_checkpoint LIMIT 0"),
    (13, "SELECT xid, state, updated_at FROM event_transaction LIMIT 0"),
    (13, "SELECT xid, ordinal, number, id, stream, name, data, metadata FROM event_staged LIMIT 0"),
    (14, "SELECT `key`, scope, created_at, request_hash, result, expires_at FROM idempotency_keys LIMIT 0"),
    (15, "SELECT id, at, gid, name, principal, action, outcome, reason FROM dtx_audit LIMIT 0"),
    (
        16,
        "SELECT id, name, version, status, direction, data, error, epoch, lease_owner, lease_until, next_run_at, deadline, started_at, \
         updated_at, finished_at FROM orchestration LIMIT 0",
    ),
    (
        16,
        "SELECT id, ordinal, name, status, attempts, compensations, in_doubt, output, error, updated_at FROM orchestration_step LIMIT 0",
    ),
    (16, "SELECT id, step, op, state, output, at FROM orchestration_marker LIMIT 0"),
    (
        17,
        "SELECT position, source, id, seq, created_at, destination, aggregatetype, aggregateid, `type`, payload, headers, \
         tracingspancontext, published_at FROM relay_archive LIMIT 0",
    ),
];

pub(super) async fn apply(pool: &MySqlPool, place: &str) -> Result<Vec<Migration>, SchemaError> {
    let failed = |cause| SchemaError::Database { place: place.to_owned(), cause };
    // Taken out of the pool: whatever happens, the lock ends with this connection and nobody inherits it.
    let mut connection = pool.acquire().await.map_err(failed)?.detach();
    let locked =
        sqlx::query_scalar::<_, Option<i64>>(LOCK).bind(APPLY_WAIT_S).fetch_one(&mut connection).await;
    if locked.map_err(failed)? != Some(1) {
        return Err(SchemaError::Locked { place: place.to_owned(), waited_s: APPLY_WAIT_S });
    }
    let result = apply_locked(&mut connection, place).await;
    // What was applied stays applied however the closing goes, and the server frees the lock when it sees the end.
    let _ = connection.close().await;
    result
}

async fn apply_locked(connection: &mut MySqlConnection, place: &str) -> Result<Vec<Migration>, SchemaError> {
    let failed = |cause| SchemaError::Database { place: place.to_owned(), cause };
    let status = rows(connection).await.map_err(failed)?;
    let status = compare::compare(place, migrations(Dialect::MySql), status)?;
    status.check_not_newer(place)?;
    connection.execute(bookkeeping(Dialect::MySql)).await.map_err(failed)?;
    for step in &status.pending {
        run(connection, step).await.map_err(|cause| SchemaError::Failed {
            place: place.to_owned(),
            version: step.version,
            name: step.name,
            cause,
        })?;
    }
    Ok(status.pending)
}

async fn run(connection: &mut MySqlConnection, step: &Migration) -> Result<(), sqlx::Error> {
    connection.execute(step.sql).await?;
    for (_, columns) in COLUMNS.iter().filter(|(version, _)| *version == step.version) {
        connection.execute(*columns).await?;
    }
    let insert = "INSERT INTO barid_schema (version, name, checksum) VALUES (?, ?, ?)";
    let insert = sqlx::query(insert).bind(i64::from(step.version)).bind(step.name).bind(step.checksum());
    insert.execute(connection).await.map(drop)
}

pub(super) async fn applied(pool: &MySqlPool) -> Result<Vec<compare::Row>, sqlx::Error> {
    rows(&mut *pool.acquire().await?).await
}

/// The rows of the table, none when it does not exist.
async fn rows(connection: &mut MySqlConnection) -> Result<Vec<compare::Row>, sqlx::Error> {
    let exists = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'barid_schema'";
    if sqlx::query_scalar::<_, i64>(exists).fetch_one(&mut *connection).await? == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, name, checksum FROM barid_schema").fetch_all(connection).await
}
