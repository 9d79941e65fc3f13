//! The rows of a batch on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection};
use uuid::Uuid;

use super::{
    text::{SAVEPOINT, Text},
    unit::number,
};
use crate::{
    limits::IDEMPOTENCY_WAIT,
    store::{
        backend::{Backend, IdempotencyKey, Recorded},
        batch::{BatchRows, ids, of_messages, recorded},
        shared::Literals,
    },
};

impl BatchRows for MySql {
    async fn open_batch(
        connection: &mut MySqlConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Recorded>, sqlx::Error> {
        let all: Vec<_> = keys.iter().collect();
        let error = match Self::simple(connection, ["START TRANSACTION;", &records(&all)].concat()).await {
            Ok(()) => return Ok(vec![Recorded::Fresh; keys.len()]),
            Err(error) => error,
        };
        match number(&error) {
            // ER_DUP_ENTRY: only the statement was undone, the transaction is open.
            Some(1062) => {}
            // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK: a transaction that has not ended holds one of the keys.
            Some(1205 | 1213) => {
                Self::simple(connection, "ROLLBACK".to_owned()).await?;
                return Ok(vec![Recorded::InProgress; keys.len()]);
            }
            _ => return Err(error),
        }
        let mut select = String::new();
        of_messages("SELECT message_id FROM idempotency", keys).render::<Text>(&mut select);
        let committed = ids::<Self>(connection, select).await?;
        let fresh: Vec<_> = keys.iter().filter(|key| !committed.contains(&key.message_id)).collect();
        let text = if fresh.is_empty() { SAVEPOINT.to_owned() } else { records(&fresh) };
        Self::simple(connection, text).await?;
        let inserted: Vec<_> = fresh.iter().map(|key| key.message_id).collect();
        Ok(recorded(keys, &inserted, &committed))
    }

    async fn count_first(
        connection: &mut MySqlConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let mut select = String::new();
        of_messages("SELECT message_id FROM attempts", keys).render::<Text>(&mut select);
        let known = ids::<Self>(connection, select).await?;
        let fresh: Vec<_> = keys.iter().filter(|key| !known.contains(&key.message_id)).collect();
        if !fresh.is_empty() {
            // Fails as a whole when another instance counts one of them at this moment.
            let insert = "INSERT INTO attempts(message_id,scope,attempts)VALUES".to_owned();
            Self::simple(connection, rows(insert, &fresh, ",1)")).await?;
        }
        Ok(fresh.iter().map(|key| key.message_id).collect())
    }

    async fn take_back_first(
        connection: &mut MySqlConnection,
        keys: &[IdempotencyKey],
    ) -> Result<(), sqlx::Error> {
        let mut delete = String::new();
        of_messages("DELETE FROM attempts", keys).sql(" AND attempts=1").render::<Text>(&mut delete);
        Self::simple(connection, delete).await
    }
}

/// The records and the savepoint, in the order of the ids so that two batches lock them in the same order.
fn records(keys: &[&IdempotencyKey]) -> String {
    let mut sorted = keys.to_vec();
    sorted.sort_by_key(|key| key.message_id);
    let insert = format!(
        "/*M! SET STATEMENT innodb_lock_wait_timeout={} FOR */INSERT INTO idempotency(message_id,scope)VALUES",
        IDEMPOTENCY_WAIT.as_secs()
    );
    let mut out = rows(insert, &sorted, ")");
    out.push(';');
    out.push_str(SAVEPOINT);
    out
}

fn rows(mut out: String, keys: &[&IdempotencyKey], end: &str) -> String {
    for (at, key) in keys.iter().enumerate() {
        out.push_str(if at == 0 { "(" } else { ",(" });
        Text::id(&mut out, key.message_id);
        out.push(',');
        Text::text(&mut out, &key.scope);
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        assert!(!records(&[&key, &key]).contains("DROP"));
    }
}
