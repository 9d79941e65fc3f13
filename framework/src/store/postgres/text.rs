//! SQL text for PostgreSQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::IdempotencyKey,
        shared::{Literals, push_hex},
    },
};

/// How PostgreSQL writes values.
pub(super) struct Text;

impl Literals for Text {
    fn id(out: &mut String, id: Uuid) {
        let mut buffer = Uuid::encode_buffer();
        out.push('\'');
        out.push_str(id.hyphenated().encode_lower(&mut buffer));
        out.push_str("'::uuid");
    }

    fn text(out: &mut String, text: &str) {
        out.push_str("convert_from(");
        Self::bytes(out, text.as_bytes());
        out.push_str(",'UTF8')");
    }

    fn json(out: &mut String, json: &str) {
        Self::text(out, json);
        out.push_str("::jsonb");
    }

    fn bytes(out: &mut String, bytes: &[u8]) {
        out.push_str("'\\x");
        push_hex(out, bytes);
        out.push_str("'::bytea");
    }
}

/// BEGIN, the idempotency record under a lock timeout, the savepoint.
///
/// The record comes before the savepoint, so that a hand-written `ROLLBACK TO SAVEPOINT barid_unit` cannot remove it.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    let Some(key) = key else {
        return "BEGIN;SAVEPOINT barid_unit".to_owned();
    };
    let mut out = format!("BEGIN;SET LOCAL lock_timeout={};", IDEMPOTENCY_WAIT.as_millis());
    out.push_str("INSERT INTO idempotency(message_id,scope)VALUES(");
    Text::id(&mut out, key.message_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out.push_str(")ON CONFLICT DO NOTHING;SET LOCAL lock_timeout TO DEFAULT;SAVEPOINT barid_unit");
    out
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
}
