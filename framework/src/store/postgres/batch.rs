//! The rows of a batch on PostgreSQL.

use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::text::Text;
use crate::store::{
    backend::{Backend, IdempotencyKey, Recorded},
    batch::{BatchRows, ids, of_messages, recorded},
    shared::Literals,
};

impl BatchRows for Postgres {
    async fn open_batch(
        connection: &mut PgConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Recorded>, sqlx::Error> {
        let inserted = ids::<Self>(connection, opening(keys)).await?;
        if inserted.len() == keys.len() {
            return Ok(vec![Recorded::Fresh; keys.len()]);
        }
        // A later statement sees what has been committed meanwhile.
        let mut select = String::new();
        of_messages("SELECT message_id FROM idempotency", keys).render::<Text>(&mut select);
        let committed = ids::<Self>(connection, select).await?;
        Ok(recorded(keys, &inserted, &committed))
    }

    async fn count_first(
        connection: &mut PgConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let mut insert = "INSERT INTO attempts(message_id,scope,attempts)SELECT id,".to_owned();
        push_scope(&mut insert, keys);
        insert.push_str(",1 FROM unnest(");
        push_ids(&mut insert, keys);
        insert.push_str(")AS k(id)ON CONFLICT DO NOTHING RETURNING message_id");
        ids::<Self>(connection, insert).await
    }

    async fn take_back_first(
        connection: &mut PgConnection,
        keys: &[IdempotencyKey],
    ) -> Result<(), sqlx::Error> {
        let mut delete = String::new();
        of_messages("DELETE FROM attempts", keys).sql(" AND attempts=1").render::<Text>(&mut delete);
        Self::simple(connection, delete).await
    }
}

/// BEGIN, the records whose advisory locks are free, the savepoint. Never waits; see the opening text of one message.
fn opening(keys: &[IdempotencyKey]) -> String {
    let mut out = "BEGIN;INSERT INTO idempotency(message_id,scope)SELECT id,scope FROM(SELECT id,".to_owned();
    out.reserve(keys.len() * 40 + 512);
    push_scope(&mut out, keys);
    out.push_str(" AS scope FROM unnest(");
    push_ids(&mut out, keys);
    out.push_str(
        ")AS k(id))AS record WHERE pg_try_advisory_xact_lock(hashtextextended(scope,uuid_hash_extended(id,0)))\
         ON CONFLICT DO NOTHING RETURNING message_id;SAVEPOINT barid_unit",
    );
    out
}

fn push_scope(out: &mut String, keys: &[IdempotencyKey]) {
    Text::text(out, keys.first().map_or("", |key| key.scope.as_str()));
}

fn push_ids(out: &mut String, keys: &[IdempotencyKey]) {
    let mut buffer = Uuid::encode_buffer();
    out.push_str("'{");
    for (at, key) in keys.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        out.push_str(key.message_id.hyphenated().encode_lower(&mut buffer));
    }
    out.push_str("}'::uuid[]");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_came_from_outside_appears_in_the_text() {
        let key = IdempotencyKey { message_id: Uuid::nil(), scope: "x'); DROP TABLE orders; --".to_owned() };
        let text = opening(&[key.clone(), key]);
        assert!(!text.contains("DROP"), "{text}");
        assert!(text.contains(&hex::encode("x'); DROP TABLE orders; --")), "{text}");
    }
}
