//! SQL text for PostgreSQL, built from UUIDs, integers, hex and plain text only (see `shared`).

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::IdempotencyKey,
        idempotency::Mark,
        shared::{self, Literals, push_hex, push_plain},
        statement::Writes,
    },
    transport::OutgoingRow,
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
        push_text(out, text, "::text");
    }

    fn json(out: &mut String, json: &str) {
        push_text(out, json, "");
        out.push_str("::jsonb");
    }

    fn bytes(out: &mut String, bytes: &[u8]) {
        push_bytes(out, bytes);
        out.push_str("::bytea");
    }
}

/// Appends text, and after text that is plain what says its type.
fn push_text(out: &mut String, text: &str, of_type: &str) {
    if push_plain(out, text.as_bytes()) {
        out.push_str(of_type);
        return;
    }
    out.push_str("convert_from('\\x");
    push_hex(out, text.as_bytes());
    out.push_str("','UTF8')");
}

/// Appends bytes. Plain ones are themselves: only a backslash would make them hex or an escape.
fn push_bytes(out: &mut String, bytes: &[u8]) {
    if !push_plain(out, bytes) {
        out.push_str("'\\x");
        push_hex(out, bytes);
        out.push('\'');
    }
}

/// Without an idempotency record.
pub(super) const OPENING: &str = "BEGIN;SAVEPOINT barid_unit";

/// The statements that the texts execute. The outbox comes first: a session that has the second one has both.
pub(super) const PREPARE: [&str; 2] = [
    "PREPARE barid_outbox(uuid,text,text,text,text,bytea,jsonb,text)AS INSERT INTO outbox(id,destination,aggregatetype,\
     aggregateid,type,payload,headers,tracingspancontext)VALUES($1,$2,$3,$4,$5,$6,$7,$8)",
    "PREPARE barid_idempotency(uuid,text)AS INSERT INTO idempotency(message_id,scope)\
     SELECT $1,$2 WHERE pg_try_advisory_xact_lock(hashtextextended($2,uuid_hash_extended($1,0)))ON CONFLICT DO NOTHING",
];

/// BEGIN, the idempotency record, the savepoint.
///
/// The record comes before the savepoint, so that a hand-written `ROLLBACK TO SAVEPOINT barid_unit` cannot remove it. It is
/// inserted only when the advisory lock of its key is free, so that this text never waits for a concurrent duplicate and
/// needs no lock timeout of its own: a changed setting costs PostgreSQL two walks over all its settings in every
/// transaction. No record inserted means: [`waiting`] finds out why.
pub(super) fn opening(key: &IdempotencyKey) -> String {
    let mut out = "BEGIN;".to_owned();
    push_record(&mut out, key, "pg_try_advisory_xact_lock", "");
    out.push_str(";SAVEPOINT barid_unit");
    out
}

/// The same through the prepared statement.
pub(super) fn opening_prepared(key: &IdempotencyKey) -> String {
    let mut out = "BEGIN;EXECUTE barid_idempotency(".to_owned();
    Parameters::id(&mut out, key.message_id);
    out.push(',');
    Parameters::text(&mut out, &key.scope);
    out.push_str(");SAVEPOINT barid_unit");
    out
}

/// The same with the last number of a key instead of a record: nothing is written unless the number is higher.
pub(super) fn opening_mark(key: &IdempotencyKey, mark: Mark) -> String {
    let mut out = "BEGIN;".to_owned();
    push_mark(&mut out, key, mark, "pg_try_advisory_xact_lock", "");
    out.push_str(";SAVEPOINT barid_unit");
    out
}

/// What follows an opening text that wrote nothing: waits, bounded, until whoever holds the key has ended, and tries once
/// more.
pub(super) fn waiting(key: &IdempotencyKey, mark: Option<Mark>) -> String {
    let mut out =
        format!("RELEASE SAVEPOINT barid_unit;SET LOCAL lock_timeout={};", IDEMPOTENCY_WAIT.as_millis());
    match mark {
        Some(mark) => push_mark(&mut out, key, mark, "pg_advisory_xact_lock", "::text IS NOT NULL"),
        None => push_record(&mut out, key, "pg_advisory_xact_lock", "::text IS NOT NULL"),
    }
    out.push_str(";SET LOCAL lock_timeout TO DEFAULT;SAVEPOINT barid_unit");
    out
}

fn push_mark(out: &mut String, key: &IdempotencyKey, mark: Mark, lock: &str, locked: &str) {
    out.push_str("INSERT INTO high_water(key_id,scope,last)SELECT key_id,scope,last FROM(SELECT ");
    Text::id(out, mark.key_id);
    out.push_str(" AS key_id,");
    Text::text(out, &key.scope);
    out.push_str(" AS scope,");
    out.push_str(&mark.number.to_string());
    out.push_str("::bigint AS last)AS mark WHERE ");
    out.push_str(lock);
    out.push_str("(hashtextextended(scope,uuid_hash_extended(key_id,0)))");
    out.push_str(locked);
    out.push_str(ON_LOWER);
}

const ON_LOWER: &str = " ON CONFLICT(key_id,scope)DO UPDATE SET last=excluded.last,handled_at=excluded.handled_at \
                        WHERE high_water.last<excluded.last";

/// The insert of the record behind the advisory lock of its key. Two keys that share one only wait for each other.
fn push_record(out: &mut String, key: &IdempotencyKey, lock: &str, locked: &str) {
    out.push_str("INSERT INTO idempotency(message_id,scope)SELECT id,scope FROM(SELECT ");
    Text::id(out, key.message_id);
    out.push_str(" AS id,");
    Text::text(out, &key.scope);
    out.push_str(" AS scope)AS record WHERE ");
    out.push_str(lock);
    out.push_str("(hashtextextended(scope,uuid_hash_extended(id,0)))");
    out.push_str(locked);
    out.push_str(" ON CONFLICT DO NOTHING");
}

/// The closing text for one row, through the prepared statement. `None` when it would be too large.
pub(super) fn closing_prepared(writes: &Writes, row: &OutgoingRow) -> Option<String> {
    let mut out = shared::closing_begun::<Text>(writes)?;
    out.push_str(";EXECUTE barid_outbox(");
    shared::push_row::<Parameters>(&mut out, row);
    out.push(')');
    shared::closing_ended(out)
}

/// How values are written for the prepared statements, which know their types.
struct Parameters;

impl Literals for Parameters {
    fn id(out: &mut String, id: Uuid) {
        let mut buffer = Uuid::encode_buffer();
        out.push('\'');
        out.push_str(id.hyphenated().encode_lower(&mut buffer));
        out.push('\'');
    }

    fn text(out: &mut String, text: &str) {
        push_text(out, text, "");
    }

    fn json(out: &mut String, json: &str) {
        if !push_plain(out, json.as_bytes()) {
            Text::json(out, json);
        }
    }

    fn bytes(out: &mut String, bytes: &[u8]) {
        push_bytes(out, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        let mark = Mark { key_id: Uuid::nil(), number: 7 };
        let texts = [opening(&key), opening_prepared(&key), opening_mark(&key, mark), waiting(&key, None)];
        for text in texts.into_iter().chain([waiting(&key, Some(mark))]) {
            assert!(!text.contains("DROP"), "{text}");
            assert!(text.contains(&hex::encode("x'); DROP TABLE orders; --")), "{text}");
        }
    }
}
