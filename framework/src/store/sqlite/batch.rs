//! The rows of a batch on SQLite.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use super::{text::Text, unit::code};
use crate::store::{
    backend::{Backend, IdempotencyKey, Recorded},
    batch::{BatchRows, ids, of_messages, recorded},
    shared::Literals,
};

impl BatchRows for Sqlite {
    async fn open_batch(
        connection: &mut SqliteConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Recorded>, sqlx::Error> {
        let records = rows("BEGIN IMMEDIATE;INSERT INTO idempotency(message_id,scope)VALUES", keys, ")");
        let text = records + " ON CONFLICT DO NOTHING RETURNING message_id;SAVEPOINT barid_unit";
        match ids::<Self>(connection, text).await {
            Ok(inserted) => {
                // There is one writer: what was there is committed.
                let all: Vec<_> = keys.iter().map(|key| key.message_id).collect();
                Ok(recorded(keys, &inserted, &all))
            }
            // SQLITE_BUSY in its variants: another process writes.
            Err(error) if code(&error).is_some_and(|code| code & 0xff == 5) => {
                Ok(vec![Recorded::InProgress; keys.len()])
            }
            Err(error) => Err(error),
        }
    }

    async fn count_first(
        connection: &mut SqliteConnection,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let insert = rows("INSERT INTO attempts(message_id,scope,attempts)VALUES", keys, ",1)");
        ids::<Self>(connection, insert + " ON CONFLICT DO NOTHING RETURNING message_id").await
    }

    async fn take_back_first(
        connection: &mut SqliteConnection,
        keys: &[IdempotencyKey],
    ) -> Result<(), sqlx::Error> {
        let mut delete = String::new();
        of_messages("DELETE FROM attempts", keys).sql(" AND attempts=1").render::<Text>(&mut delete);
        Self::simple(connection, delete).await
    }
}

fn rows(before: &str, keys: &[IdempotencyKey], end: &str) -> String {
    let mut out = before.to_owned();
    for (at, key) in keys.iter().enumerate() {
        out.push_str(if at == 0 { "(" } else { ",(" });
        Text::id(&mut out, key.message_id);
        out.push(',');
        Text::text(&mut out, &key.scope);
        out.push_str(end);
    }
    out
}
