//! SQL text for MariaDB and MySQL, built from UUIDs, integers and hex only.

use uuid::Uuid;

use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::IdempotencyKey,
        shared::{Literals, push_hex},
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

/// What the opening text does not reach when the insert meets a duplicate.
pub(super) const SAVEPOINT: &str = "SAVEPOINT barid_unit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        assert!(!opening(Some(&key)).contains("DROP"));
    }
}
