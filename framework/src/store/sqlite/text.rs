//! SQL text for SQLite, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    store::backend::{IdempotencyKey, OUTBOX_COLUMNS, outbox_values},
    transport::OutgoingRow,
};

fn id(id: Uuid) -> String {
    format!("X'{}'", id.simple())
}

fn bytes(bytes: &[u8]) -> String {
    format!("X'{}'", hex::encode(bytes))
}

fn text(text: &str) -> String {
    format!("CAST(X'{}' AS TEXT)", hex::encode(text))
}

/// BEGIN IMMEDIATE: a deferred transaction that reads and then writes fails at once (BUSY_SNAPSHOT) when somebody wrote
/// in between, and no timeout helps.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    match key {
        None => "BEGIN IMMEDIATE;SAVEPOINT barid_unit".to_owned(),
        Some(key) => format!(
            "BEGIN IMMEDIATE;INSERT INTO idempotency(message_id,scope)VALUES({id},{scope});SAVEPOINT barid_unit",
            id = id(key.message_id),
            scope = text(&key.scope),
        ),
    }
}

/// The release first: it fails when the transaction was ended by hand. `None` when the rows are too large for text.
pub(super) fn closing(rows: &[OutgoingRow]) -> Option<String> {
    if rows.is_empty() {
        return Some("RELEASE SAVEPOINT barid_unit;COMMIT".to_owned());
    }
    let values = outbox_values(rows, id, text, text, bytes)?;
    Some(format!("RELEASE SAVEPOINT barid_unit;INSERT INTO outbox({OUTBOX_COLUMNS})VALUES{values};COMMIT"))
}
