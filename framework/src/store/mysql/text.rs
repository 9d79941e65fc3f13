//! SQL text for MariaDB and MySQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::IdempotencyKey,
        idempotency::Mark,
        shared::{Literals, push_hex},
        statement::Statement,
    },
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

/// What prepares, on MariaDB, what stands behind START TRANSACTION as one statement: the server parses it once a session instead
/// of once a message, and answers once instead of twice.
///
/// START TRANSACTION stays outside, for proxies that read it. An error ends a block where it stands, as it ends a text. MySQL
/// cannot prepare blocks.
pub(super) fn prepare() -> String {
    format!(
        "PREPARE barid_opening FROM 'BEGIN NOT ATOMIC SET STATEMENT innodb_lock_wait_timeout={} FOR \
         INSERT INTO idempotency(message_id,scope)VALUES(?,?);{SAVEPOINT};END'",
        IDEMPOTENCY_WAIT.as_secs()
    )
}

/// The closing text for one row and nothing else as one statement with bound values: reading hex is a quarter of what the
/// server does for a message otherwise. For sessions on which [`prepare`] went well.
pub(super) const CLOSING: &str = "BEGIN NOT ATOMIC RELEASE SAVEPOINT barid_unit;\
    INSERT INTO outbox(id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext)\
    VALUES(?,?,?,?,?,?,?,?);COMMIT;END";

/// [`opening`] through the prepared statement.
pub(super) fn opening_prepared(key: &IdempotencyKey) -> String {
    let mut out = "START TRANSACTION;EXECUTE barid_opening USING ".to_owned();
    Text::id(&mut out, key.message_id);
    out.push(',');
    Text::text(&mut out, &key.scope);
    out
}

/// [`opening`] with the last number of a key instead of a record. The number of affected rows does not tell a new number from an
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
    use crate::store::shared::{self, OUTBOX_COLUMNS};

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        assert!(!opening(Some(&key)).contains("DROP"));
        assert!(!opening_prepared(&key).contains("DROP"));
        let mark = Mark { key_id: Uuid::nil(), number: 7 };
        assert!(!opening_mark(&key, mark, Uuid::nil()).contains("DROP"));
    }

    #[test]
    fn the_closing_statement_is_the_closing_text() {
        let values = format!("INSERT INTO outbox({OUTBOX_COLUMNS})VALUES(?,?,?,?,?,?,?,?)");
        assert_eq!(CLOSING, format!("BEGIN NOT ATOMIC {};{values};COMMIT;END", shared::RELEASE));
    }
}
