//! SQL text for MariaDB and MySQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::IdempotencyKey,
        idempotency::Mark,
        shared::{self, Literals, OUTBOX_COLUMNS, push_hex},
        statement::Statement,
    },
    transport::OutgoingRow,
};

/// How MariaDB and MySQL writes values.
pub(super) struct Text;

impl Literals for Text {
    fn id(out: &mut String, id: Uuid) {
        Self::bytes(out, id.as_bytes());
    }

    fn text(out: &mut String, text: &str) {
        out.push_str("_utf8mb4 ");
        Self::bytes(out, text.as_bytes());
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

/// START TRANSACTION, the idempotency record, the savepoint.
///
/// The insert is plain: IGNORE would hide other errors. A duplicate key (1062) stops the text before the savepoint, with
/// the transaction open; [`SAVEPOINT`] then follows on its own. The bound on waiting for a concurrent duplicate holds for
/// this one statement, on MariaDB; MySQL has nothing of the kind, reads a comment there, and waits as long as its
/// `innodb_lock_wait_timeout` says.
pub(super) fn opening(key: Option<&IdempotencyKey>) -> String {
    let Some(key) = key else {
        return ["START TRANSACTION;", SAVEPOINT].concat();
    };
    let mut out = format!(
        "START TRANSACTION;/*M! SET STATEMENT innodb_lock_wait_timeout={} FOR */\
         INSERT INTO idempotency(message_id,scope)VALUES(",
        IDEMPOTENCY_WAIT.as_secs()
    );
    Text::id(&mut out, key.message_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out.push_str(");");
    out.push_str(SAVEPOINT);
    out
}

/// What prepares, on MariaDB, what stands between START TRANSACTION and COMMIT in the two texts, each as one statement: the
/// server parses it once a session instead of once a message, and answers once instead of twice, which takes a sixth of its
/// work for a message away. The closing comes first: a session that has the second one has both.
///
/// START TRANSACTION and COMMIT stay outside, for proxies that read them. An error ends a block where it stands, as it ends
/// a text. MySQL cannot prepare blocks.
pub(super) fn prepare() -> String {
    format!(
        "PREPARE barid_closing FROM 'BEGIN NOT ATOMIC {};INSERT INTO outbox({OUTBOX_COLUMNS})VALUES(?,?,?,?,?,?,?,?);END';\
         PREPARE barid_opening FROM 'BEGIN NOT ATOMIC SET STATEMENT innodb_lock_wait_timeout={} FOR \
         INSERT INTO idempotency(message_id,scope)VALUES(?,?);{SAVEPOINT};END'",
        shared::RELEASE,
        IDEMPOTENCY_WAIT.as_secs()
    )
}

/// [`opening`] through the prepared statement.
pub(super) fn opening_prepared(key: &IdempotencyKey) -> String {
    let mut out = "START TRANSACTION;EXECUTE barid_opening USING ".to_owned();
    Text::id(&mut out, key.message_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out
}

/// The closing text for one row and nothing else, through the prepared statement. `None` when it would be too large.
pub(super) fn closing_prepared(row: &OutgoingRow) -> Option<String> {
    let mut out = shared::for_rows(std::slice::from_ref(row))?;
    out.push_str("EXECUTE barid_closing USING ");
    shared::push_row::<Text>(&mut out, row);
    shared::closing_ended(out)
}

/// The same with the last number of a key instead of a record. The number of affected rows does not tell a new number from an
/// old one here; the token does, read back by [`is_mine`].
pub(super) fn opening_mark(key: &IdempotencyKey, mark: Mark, token: Uuid) -> String {
    let mut out = format!(
        "START TRANSACTION;/*M! SET STATEMENT innodb_lock_wait_timeout={} FOR */\
         INSERT INTO high_water(key_id,scope,last,token)VALUES(",
        IDEMPOTENCY_WAIT.as_secs()
    );
    Text::id(&mut out, mark.key_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out.push(',');
    out.push_str(&mark.number.to_string());
    out.push(',');
    Text::id(&mut out, token);
    out.push_str(
        ")ON DUPLICATE KEY UPDATE token=IF(VALUES(last)>last,VALUES(token),token),\
         handled_at=IF(VALUES(last)>last,VALUES(handled_at),handled_at),last=GREATEST(last,VALUES(last));",
    );
    out.push_str(SAVEPOINT);
    out
}

/// One row when the unit with this token wrote the mark.
pub(super) fn is_mine(key: &IdempotencyKey, mark: Mark, token: Uuid) -> Statement {
    let select = Statement::new("SELECT 1 FROM high_water WHERE key_id=").id(mark.key_id);
    select.sql(" AND scope=").text(&key.scope).sql(" AND token=").id(token)
}

/// What the opening text does not reach when the insert meets a duplicate.
pub(super) const SAVEPOINT: &str = "SAVEPOINT barid_unit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        assert!(!opening(Some(&key)).contains("DROP"));
        assert!(!opening_prepared(&key).contains("DROP"));
        let mark = Mark { key_id: Uuid::nil(), number: 7 };
        assert!(!opening_mark(&key, mark, Uuid::nil()).contains("DROP"));
    }

    #[test]
    fn a_row_that_is_too_large_for_a_text_is_not_written_as_one() {
        let row = |length| OutgoingRow {
            seq: 0,
            id: Uuid::nil(),
            destination: crate::Destination::topic("t").unwrap(),
            aggregatetype: "'; DROP TABLE orders; --".to_owned(),
            aggregateid: None,
            name: "n".to_owned(),
            payload: Some(vec![0x7f; length].into()),
            headers: crate::Headers::new(),
            tracingspancontext: None,
        };
        const LARGEST: usize = crate::limits::OUTBOX_TEXT_BYTES_MAX / 2;
        let text = closing_prepared(&row(2)).unwrap();
        assert!(text.starts_with("EXECUTE barid_closing USING X'") && text.contains(",NULL,"), "{text}");
        assert!(text.contains("X'7f7f'") && !text.contains("DROP"), "{text}");
        assert_eq!(closing_prepared(&row(LARGEST + 1)), None);
        assert_eq!(closing_prepared(&row(LARGEST)), None, "the rest of the row counts too");
    }
}
