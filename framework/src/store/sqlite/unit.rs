//! The unit of work's statements on SQLite.

use sqlx::{
    AssertSqlSafe, Executor, Pool, QueryBuilder, Sqlite, SqliteConnection, raw_sql, sqlite::SqliteRow,
};
use tokio::sync::OwnedMutexGuard;

use super::{lock, text};
use crate::{
    store::{
        AnyPool,
        backend::{self, Backend, IdempotencyKey, Opened, Prepared, Recorded, Verdict},
        idempotency::Mark,
        schema,
        shared::{self, OUTBOX_COLUMNS},
        statement::{Opening, Statement, Writes, push_all},
    },
    transport::OutgoingRow,
};

impl backend::sealed::Sealed for Sqlite {}

impl Backend for Sqlite {
    const DISPLAY: &'static str = "SQLite";

    async fn writer(pool: &Pool<Self>) -> Option<OwnedMutexGuard<()>> {
        Some(lock::file_lock(pool).lock_owned().await)
    }

    async fn check_schema(pool: &Pool<Self>) -> crate::Result<()> {
        Ok(schema::check(&AnyPool::Sqlite(pool.clone())).await?)
    }

    async fn open(
        connection: &mut SqliteConnection,
        opening: &Opening,
        _: &mut Prepared,
    ) -> Result<Opened<Self>, sqlx::Error> {
        let opened = match (&opening.key, opening.mark) {
            (Some(key), Some(mark)) => open_mark(connection, key, mark, &opening.reads).await,
            (key, _) => {
                let reads = send(connection, text::opening(key.as_ref()), &opening.reads).await;
                reads.map(|reads| Opened { recorded: Recorded::Fresh, reads })
            }
        };
        let error = match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        match code(&error) {
            // SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE; the text holds no other insert.
            Some(1555 | 2067) => {
                let reads = send(connection, text::SAVEPOINT.to_owned(), &opening.reads).await?;
                Ok(Opened { recorded: Recorded::Duplicate, reads })
            }
            // SQLITE_BUSY in its variants: another process writes.
            Some(code) if code & 0xff == 5 => Ok(Opened::without_reads(Recorded::InProgress)),
            _ => Err(error),
        }
    }

    fn closing(writes: &Writes, _: Prepared) -> Option<String> {
        shared::closing::<text::Text>(writes)
    }

    async fn run(connection: &mut SqliteConnection, statement: &Statement) -> Result<u64, sqlx::Error> {
        let done = statement.bound::<Self>(|_| "?".to_owned(), "")?.execute(connection).await?;
        Ok(done.rows_affected())
    }

    async fn insert_outbox(
        connection: &mut SqliteConnection,
        rows: &[OutgoingRow],
    ) -> Result<(), sqlx::Error> {
        // SQLite allows 32,766 bound values a statement; eight a row.
        for rows in rows.chunks(4_000) {
            let mut insert = QueryBuilder::<Sqlite>::new(format!("INSERT INTO outbox({OUTBOX_COLUMNS}) "));
            insert.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.id)
                    .push_bind(row.destination.to_string())
                    .push_bind(row.aggregatetype.clone())
                    .push_bind(row.aggregateid.clone())
                    .push_bind(row.name.clone())
                    .push_bind(row.payload.as_ref().map(|payload| payload.to_vec()))
                    .push_bind(shared::headers_json(row))
                    .push_bind(row.tracingspancontext.clone());
            });
            insert.build().execute(&mut *connection).await?;
        }
        Ok(())
    }

    async fn simple(connection: &mut SqliteConnection, text: String) -> Result<(), sqlx::Error> {
        connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        Ok(())
    }

    fn verdict(error: &sqlx::Error) -> Verdict {
        // SQLITE_IOERR: the pages may or may not have reached the file. Everything else leaves the transaction open.
        shared::verdict_by(error, |answer| {
            answer.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff != 10)
        })
    }
}

/// Writes the last number of a key instead of a record.
async fn open_mark(
    connection: &mut SqliteConnection,
    key: &IdempotencyKey,
    mark: Mark,
    reads: &[Statement],
) -> Result<Opened<Sqlite>, sqlx::Error> {
    let mut text = text::opening_mark(key, mark);
    push_all::<text::Text>(&mut text, reads);
    let answers = shared::answers::<Sqlite>(connection, text).await?;
    // The insert is the only statement before the reads that can return a row.
    let before = answers.len().saturating_sub(reads.len());
    let mine = answers.iter().take(before).any(|(_, rows)| !rows.is_empty());
    let recorded = if mine { Recorded::Fresh } else { Recorded::Duplicate };
    Ok(Opened { recorded, reads: shared::last_rows(answers, reads.len()) })
}

/// Sends an opening text, and what is read with it.
async fn send(
    connection: &mut SqliteConnection,
    mut text: String,
    reads: &[Statement],
) -> Result<Vec<Vec<SqliteRow>>, sqlx::Error> {
    if reads.is_empty() {
        connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        return Ok(Vec::new());
    }
    push_all::<text::Text>(&mut text, reads);
    Ok(shared::last_rows(shared::answers::<Sqlite>(connection, text).await?, reads.len()))
}

pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}
