//! SQL text for SQLite, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::store::{
    backend::IdempotencyKey,
    idempotency::Mark,
    shared::{Literals, push_hex},
};

/// How SQLite writes values.
pub(super) struct Text;

impl Literals for Text {
    fn id(out: &mut String, id: Uuid) {
        Self::bytes(out, id.as_bytes());
    }

    fn text(out: &mut String, text: &str) {
        out.push_str("CAST(");
        Self::bytes(out, text.as_bytes());
        out.push_str(" AS TEXT)");
    }

    fn json(out: &mut String, json: &str) {
        Self::text(out, json);
    }

    fn bytes(out: &mut String, bytes: &[u8]) {
        out.push_str("X'");
        push_hex(out, bytes);
        out.push('\'');
    }
}

/// What the opening text does not reach when the insert meets a duplicate.
pub(super) const SAVEPOINT: &str = "SAVEPOINT barid_unit";

/// BEGIN IMMEDIATE: a deferred transaction that reads and then writes fails at once (BUSY_SNAPSHOT) when somebody wrote
/// in between, and no timeout helps.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    let Some(key) = key else {
        return "BEGIN IMMEDIATE;SAVEPOINT barid_unit".to_owned();
    };
    let mut out = "BEGIN IMMEDIATE;INSERT INTO idempotency(message_id,scope)VALUES(".to_owned();
    Text::id(&mut out, key.message_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out.push_str(");SAVEPOINT barid_unit");
    out
}

/// The same with the last number of a key instead of a record: one row comes back when the number is higher than the last.
pub(super) fn opening_mark(key: &IdempotencyKey, mark: Mark) -> String {
    let mut out = "BEGIN IMMEDIATE;INSERT INTO high_water(key_id,scope,last)VALUES(".to_owned();
    Text::id(&mut out, mark.key_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out.push(',');
    out.push_str(&mark.number.to_string());
    out.push_str(
        ")ON CONFLICT(key_id,scope)DO UPDATE SET last=excluded.last,handled_at=excluded.handled_at \
         WHERE last<excluded.last RETURNING 1;SAVEPOINT barid_unit",
    );
    out
}
