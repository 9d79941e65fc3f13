//! SQL text for MariaDB and MySQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
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
    format!("_utf8mb4 X'{}'", hex::encode(text))
}

/// START TRANSACTION, the idempotency record, the savepoint.
///
/// The insert is plain: IGNORE would hide other errors. A duplicate key (1062) stops the text before the savepoint, with
/// the transaction open; [`savepoint`] then follows on its own.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    match key {
        None => "START TRANSACTION;SAVEPOINT barid_unit".to_owned(),
        Some(key) => format!(
            "SET innodb_lock_wait_timeout={wait};START TRANSACTION;\
             INSERT INTO idempotency(message_id,scope)VALUES({id},{scope});\
             SET innodb_lock_wait_timeout=DEFAULT;SAVEPOINT barid_unit",
            wait = IDEMPOTENCY_WAIT.as_secs(),
            id = id(key.message_id),
            scope = text(&key.scope),
        ),
    }
}

/// What the opening text did not reach when the insert met a duplicate.
pub(super) fn savepoint() -> &'static str {
    "SET innodb_lock_wait_timeout=DEFAULT;SAVEPOINT barid_unit"
}

/// The release first: after a DDL statement there is no transaction any more, and an insert before the release would
/// commit on its own.
///
/// `None` when the rows are too large for text.
pub(super) fn closing(rows: &[OutgoingRow]) -> Option<String> {
    if rows.is_empty() {
        return Some("RELEASE SAVEPOINT barid_unit;COMMIT".to_owned());
    }
    let values = outbox_values(rows, id, text, text, bytes)?;
    Some(format!("RELEASE SAVEPOINT barid_unit;INSERT INTO outbox({OUTBOX_COLUMNS})VALUES{values};COMMIT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        assert!(!opening(Some(&key)).contains("DROP"));
    }
}
