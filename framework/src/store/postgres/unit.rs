//! The unit of work's statements on PostgreSQL.

use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Pool, Postgres, error::DatabaseError, postgres::PgRow, raw_sql,
};
use tokio::sync::OwnedMutexGuard;

use super::text;
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

impl backend::sealed::Sealed for Postgres {}

impl Backend for Postgres {
    const DISPLAY: &'static str = "PostgreSQL";

    async fn writer(_: &Pool<Self>) -> Option<OwnedMutexGuard<()>> {
        None
    }

    async fn check_schema(pool: &Pool<Self>) -> crate::Result<()> {
        Ok(schema::check(&AnyPool::Postgres(pool.clone())).await?)
    }

    async fn open(
        connection: &mut PgConnection,
        opening: &Opening,
        prepared: &mut Prepared,
    ) -> Result<Opened<Self>, sqlx::Error> {
        let Some(key) = &opening.key else {
            let sent = send(connection, text::OPENING.to_owned(), &opening.reads).await?;
            return Ok(Opened { recorded: Recorded::Fresh, reads: sent.reads });
        };
        if let Some(mark) = opening.mark {
            // Boxed: few buses number their messages.
            return opened(Box::pin(open_mark(connection, key, mark, &opening.reads)).await);
        }
        let mut answer = send(connection, text::opening_prepared(key), &opening.reads).await;
        *prepared = prepared_by(&answer);
        if !answer.as_ref().is_ok_and(|sent| sent.inserted == 1) {
            // Boxed: rare, and large.
            answer = Box::pin(open_slowly(connection, key, opening, answer, prepared)).await;
        }
        opened(answer)
    }

    fn closing(writes: &Writes, prepared: Prepared) -> Option<String> {
        match &*writes.outbox {
            [row] if prepared == Prepared::Yes => text::closing_prepared(writes, row),
            _ => shared::closing::<text::Text>(writes),
        }
    }

    async fn run(connection: &mut PgConnection, statement: &Statement) -> Result<u64, sqlx::Error> {
        let done = statement.bound::<Self>(|n| format!("${n}"), "::jsonb")?.execute(connection).await?;
        Ok(done.rows_affected())
    }

    async fn insert_outbox(connection: &mut PgConnection, rows: &[OutgoingRow]) -> Result<(), sqlx::Error> {
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let destinations: Vec<_> = rows.iter().map(|row| row.destination.to_string()).collect();
        let aggregatetypes: Vec<_> = rows.iter().map(|row| row.aggregatetype.as_str()).collect();
        let aggregateids: Vec<_> = rows.iter().map(|row| row.aggregateid.as_deref()).collect();
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        let payloads: Vec<_> = rows.iter().map(|row| row.payload.as_deref()).collect();
        let headers: Vec<_> = rows.iter().map(shared::headers_json).collect();
        let contexts: Vec<_> = rows.iter().map(|row| row.tracingspancontext.as_deref()).collect();
        // WITH ORDINALITY: the identity column is filled in the order of the rows, which is the order per key.
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO outbox({OUTBOX_COLUMNS}) \
             SELECT a,b,c,d,e,f,g::jsonb,h FROM UNNEST($1::uuid[],$2::text[],$3::text[],$4::text[],$5::text[],$6::bytea[],\
             $7::text[],$8::text[]) WITH ORDINALITY AS t(a,b,c,d,e,f,g,h,n) ORDER BY n"
        )))
        .bind(ids)
        .bind(destinations)
        .bind(aggregatetypes)
        .bind(aggregateids)
        .bind(names)
        .bind(payloads)
        .bind(headers)
        .bind(contexts)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn simple(connection: &mut PgConnection, text: String) -> Result<(), sqlx::Error> {
        connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        Ok(())
    }

    fn verdict(error: &sqlx::Error) -> Verdict {
        shared::verdict_by(error, answers_for_the_transaction)
    }
}

fn opened(answer: Result<Sent, sqlx::Error>) -> Result<Opened<Postgres>, sqlx::Error> {
    match answer {
        Ok(Sent { inserted, reads }) => {
            let recorded = if inserted == 1 { Recorded::Fresh } else { Recorded::Duplicate };
            Ok(Opened { recorded, reads })
        }
        // lock_not_available, deadlock_detected: a transaction that has not ended holds the key.
        Err(error) if matches!(code(&error).as_deref(), Some("55P03" | "40P01")) => {
            Ok(Opened::without_reads(Recorded::InProgress))
        }
        Err(error) => Err(error),
    }
}

/// Writes the last number of a key instead of a record.
async fn open_mark(
    connection: &mut PgConnection,
    key: &IdempotencyKey,
    mark: Mark,
    reads: &[Statement],
) -> Result<Sent, sqlx::Error> {
    let answer = send(connection, text::opening_mark(key, mark), reads).await?;
    if answer.inserted == 1 {
        return Ok(answer);
    }
    // The last number is not lower, or somebody holds the key right now.
    send(connection, text::waiting(key, Some(mark)), reads).await
}

/// What follows a fast opening that inserted no record.
async fn open_slowly(
    connection: &mut PgConnection,
    key: &IdempotencyKey,
    opening: &Opening,
    mut answer: Result<Sent, sqlx::Error>,
    prepared: &mut Prepared,
) -> Result<Sent, sqlx::Error> {
    if *prepared != Prepared::Yes {
        // The first unit on this session.
        prepare(connection).await?;
        answer = send(connection, text::opening_prepared(key), &opening.reads).await;
        *prepared = prepared_by(&answer);
    }
    if *prepared != Prepared::Yes {
        // A pooler gives every transaction another session. This one it keeps until it ends.
        connection.execute(raw_sql("ROLLBACK")).await?;
        answer = send(connection, text::opening(key), &opening.reads).await;
    }
    if answer.as_ref().is_ok_and(|sent| sent.inserted == 0) {
        // The record exists, or somebody holds its key right now.
        answer = send(connection, text::waiting(key, None), &opening.reads).await;
    }
    answer
}

struct Sent {
    /// How many rows the only statement that can insert has inserted.
    inserted: u64,
    reads: Vec<Vec<PgRow>>,
}

/// Sends an opening text, and what is read with it.
async fn send(
    connection: &mut PgConnection,
    mut text: String,
    reads: &[Statement],
) -> Result<Sent, sqlx::Error> {
    if reads.is_empty() {
        let result = connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        return Ok(Sent { inserted: result.rows_affected(), reads: Vec::new() });
    }
    push_all::<text::Text>(&mut text, reads);
    let answers = shared::answers::<Postgres>(connection, text).await?;
    // A SELECT reports the rows it found as affected: only what comes before the reads counts.
    let before = answers.len().saturating_sub(reads.len());
    let inserted = answers.iter().take(before).map(|(result, _)| result.rows_affected()).sum();
    Ok(Sent { inserted, reads: shared::last_rows(answers, reads.len()) })
}

/// Prepares the statements of the two texts. Parsing and planning them for every message would cost the server more than
/// the round trips that the texts save.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(raw_sql("ROLLBACK")).await?;
    for statement in text::PREPARE {
        match connection.execute(raw_sql(statement)).await {
            Err(error) if code(&error).as_deref() != Some(DUPLICATE_PREPARED_STATEMENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

const INVALID_SQL_STATEMENT_NAME: &str = "26000";
const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";

fn prepared_by<T>(answer: &Result<T, sqlx::Error>) -> Prepared {
    let unknown = answer.as_ref().err().and_then(code).as_deref() == Some(INVALID_SQL_STATEMENT_NAME);
    if unknown { Prepared::Unknown } else { Prepared::Yes }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(Into::into)
}

/// Class 08 and the 57P errors end the session and can arrive after the commit was made durable (a server that shuts
/// down while it waits for a standby): they say nothing about the transaction.
fn answers_for_the_transaction(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| !code.starts_with("08") && !code.starts_with("57P"))
}
