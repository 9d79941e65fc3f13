//! SQL text for PostgreSQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::backend::{IdempotencyKey, OUTBOX_COLUMNS, outbox_values},
    transport::OutgoingRow,
};

fn id(id: Uuid) -> String {
    format!("'{}'::uuid", id.hyphenated())
}

fn bytes(bytes: &[u8]) -> String {
    format!("'\\x{}'::bytea", hex::encode(bytes))
}

fn text(text: &str) -> String {
    format!("convert_from('\\x{}'::bytea,'UTF8')", hex::encode(text))
}

fn json(json: &str) -> String {
    format!("{}::jsonb", text(json))
}

/// BEGIN, the idempotency record under a lock timeout, the savepoint.
///
/// The record comes before the savepoint, so that a hand-written `ROLLBACK TO SAVEPOINT barid_unit` cannot remove it.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    match key {
        None => "BEGIN;SAVEPOINT barid_unit".to_owned(),
        Some(key) => format!(
            "BEGIN;SET LOCAL lock_timeout={wait};INSERT INTO idempotency(message_id,scope)VALUES({id},{scope})\
             ON CONFLICT DO NOTHING;SET LOCAL lock_timeout TO DEFAULT;SAVEPOINT barid_unit",
            wait = IDEMPOTENCY_WAIT.as_millis(),
            id = id(key.message_id),
            scope = text(&key.scope),
        ),
    }
}

/// The release first: it fails when the transaction was ended by hand or is aborted, and nothing after it runs.
///
/// `None` when the rows are too large for text.
pub(super) fn closing(rows: &[OutgoingRow]) -> Option<String> {
    if rows.is_empty() {
        return Some("RELEASE SAVEPOINT barid_unit;COMMIT".to_owned());
    }
    let values = outbox_values(rows, id, text, json, bytes)?;
    Some(format!("RELEASE SAVEPOINT barid_unit;INSERT INTO outbox({OUTBOX_COLUMNS})VALUES{values};COMMIT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        let text = opening(Some(&key));
        assert!(!text.contains("DROP"), "{text}");
        assert!(text.contains(&hex::encode("x'); DROP TABLE orders; --")), "{text}");
    }

    #[test]
    fn the_release_is_the_first_statement_of_the_closing_text() {
        assert!(closing(&[]).unwrap().starts_with("RELEASE SAVEPOINT barid_unit;"));
    }
}
