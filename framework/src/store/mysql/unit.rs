//! The unit of work's statements on MariaDB and MySQL.

use sqlx::{
    AssertSqlSafe, Connection, Executor, MySql, MySqlConnection, Pool, QueryBuilder,
    mysql::{MySqlDatabaseError, MySqlRow},
    raw_sql,
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

impl backend::sealed::Sealed for MySql {}

impl Backend for MySql {
    const DISPLAY: &'static str = "MariaDB/MySQL";

    async fn writer(_: &Pool<Self>) -> Option<OwnedMutexGuard<()>> {
        None
    }

    async fn check_schema(pool: &Pool<Self>) -> crate::Result<()> {
        Ok(schema::check(&AnyPool::MySql(pool.clone())).await?)
    }

    async fn open(
        connection: &mut MySqlConnection,
        opening: &Opening,
        prepared: &mut Prepared,
    ) -> Result<Opened<Self>, sqlx::Error> {
        let opened = match (&opening.key, opening.mark) {
            (Some(key), Some(mark)) => open_mark(connection, key, mark, &opening.reads).await,
            (Some(key), None) if *prepared != Prepared::Impossible => {
                let mut sent = send(connection, text::opening_prepared(key), &opening.reads).await;
                *prepared = prepared_by(&sent);
                if *prepared != Prepared::Yes {
                    // Boxed: once a session.
                    sent = Box::pin(open_unprepared(connection, key, &opening.reads, prepared)).await;
                }
                fresh(sent)
            }
            (key, _) => fresh(send(connection, text::opening(key.as_ref()), &opening.reads).await),
        };
        let error = match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        match number(&error) {
            // ER_DUP_ENTRY; the text holds no other insert.
            Some(1062) => {
                let reads = send(connection, text::SAVEPOINT.to_owned(), &opening.reads).await?;
                Ok(Opened { recorded: Recorded::Duplicate, reads })
            }
            // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK: a transaction that has not ended holds the key.
            Some(1205 | 1213) => {
                connection.execute(raw_sql("ROLLBACK")).await?;
                Ok(Opened::without_reads(Recorded::InProgress))
            }
            _ => Err(error),
        }
    }

    fn closing(writes: &Writes, _: Prepared) -> Option<String> {
        shared::closing::<text::Text>(writes)
    }

    async fn commit(
        connection: &mut MySqlConnection,
        writes: &Writes,
        prepared: Prepared,
    ) -> Result<(), sqlx::Error> {
        if let [row] = &*writes.outbox
            && prepared == Prepared::Yes
            && writes.statements.is_empty()
        {
            let answer = close_with(connection, row).await;
            match answer.as_ref().err().and_then(number) {
                // Nothing of it was run. The client forgets what the server has forgotten.
                Some(UNKNOWN_STMT_HANDLER) => connection.clear_cached_statements().await?,
                // No room for another prepared statement.
                Some(MAX_PREPARED_STMT_COUNT) => {}
                _ => return answer,
            }
        }
        backend::commit_by_text::<Self>(connection, writes, prepared).await
    }

    async fn run(connection: &mut MySqlConnection, statement: &Statement) -> Result<u64, sqlx::Error> {
        let done = statement.bound::<Self>(|_| "?".to_owned(), "")?.execute(connection).await?;
        Ok(done.rows_affected())
    }

    async fn insert_outbox(
        connection: &mut MySqlConnection,
        rows: &[OutgoingRow],
    ) -> Result<(), sqlx::Error> {
        let mut insert = QueryBuilder::<MySql>::new(format!("INSERT INTO outbox({OUTBOX_COLUMNS}) "));
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
        insert.build().execute(connection).await?;
        Ok(())
    }

    async fn simple(connection: &mut MySqlConnection, text: String) -> Result<(), sqlx::Error> {
        connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        Ok(())
    }

    fn verdict(error: &sqlx::Error) -> Verdict {
        // 1053 shutdown, 1077 normal shutdown, 1152 aborted, 1927 killed: the session ended, not the transaction.
        shared::verdict_by(error, |answer| {
            answer
                .try_downcast_ref::<MySqlDatabaseError>()
                .is_some_and(|answer| !matches!(answer.number(), 1053 | 1077 | 1152 | 1317 | 1927))
        })
    }
}

fn fresh(reads: Result<Vec<Vec<MySqlRow>>, sqlx::Error>) -> Result<Opened<MySql>, sqlx::Error> {
    reads.map(|reads| Opened { recorded: Recorded::Fresh, reads })
}

/// Ends the transaction with one bound statement that inserts this row.
async fn close_with(connection: &mut MySqlConnection, row: &OutgoingRow) -> Result<(), sqlx::Error> {
    let closing = sqlx::query(text::CLOSING)
        .bind(row.id)
        .bind(row.destination.to_string())
        .bind(&row.aggregatetype)
        .bind(&row.aggregateid)
        .bind(&row.name)
        .bind(row.payload.as_deref())
        .bind(shared::headers_json(row))
        .bind(&row.tracingspancontext);
    closing.execute(connection).await?;
    Ok(())
}

const PARSE_ERROR: u16 = 1064;
const UNKNOWN_STMT_HANDLER: u16 = 1243;
const UNSUPPORTED_PS: u16 = 1295;
const MAX_PREPARED_STMT_COUNT: u16 = 1461;

/// What an answer to what prepares a statement, or executes it, says about the session.
fn prepared_by<T>(answer: &Result<T, sqlx::Error>) -> Prepared {
    match answer.as_ref().err().and_then(number) {
        Some(PARSE_ERROR | UNSUPPORTED_PS) => Prepared::Impossible,
        Some(UNKNOWN_STMT_HANDLER) => Prepared::Unknown,
        _ => Prepared::Yes,
    }
}

/// What follows an opening that found nothing prepared: prepares, or does without, now or (MySQL, which cannot) for good.
async fn open_unprepared(
    connection: &mut MySqlConnection,
    key: &IdempotencyKey,
    reads: &[Statement],
    prepared: &mut Prepared,
) -> Result<Vec<Vec<MySqlRow>>, sqlx::Error> {
    connection.execute(raw_sql("ROLLBACK")).await?;
    if *prepared == Prepared::Unknown {
        let done = connection.execute(raw_sql(AssertSqlSafe(text::prepare()))).await;
        if done.is_ok() {
            let sent = send(connection, text::opening_prepared(key), reads).await;
            *prepared = prepared_by(&sent);
            if *prepared == Prepared::Yes {
                return sent;
            }
        } else if prepared_by(&done) == Prepared::Impossible {
            *prepared = Prepared::Impossible;
        }
        // Otherwise the server has no room for more prepared statements, or a proxy gives every text another session. This one
        // it keeps until the transaction ends.
    }
    send(connection, text::opening(Some(key)), reads).await
}

/// Writes the last number of a key instead of a record.
async fn open_mark(
    connection: &mut MySqlConnection,
    key: &IdempotencyKey,
    mark: Mark,
    reads: &[Statement],
) -> Result<Opened<MySql>, sqlx::Error> {
    let token = uuid::Uuid::now_v7();
    let mut all = vec![text::is_mine(key, mark, token)];
    all.extend_from_slice(reads);
    let mut read = send(connection, text::opening_mark(key, mark, token), &all).await?.into_iter();
    let mine = read.next().is_some_and(|rows| !rows.is_empty());
    let recorded = if mine { Recorded::Fresh } else { Recorded::Duplicate };
    Ok(Opened { recorded, reads: read.collect() })
}

/// Sends an opening text, and what is read with it.
async fn send(
    connection: &mut MySqlConnection,
    mut text: String,
    reads: &[Statement],
) -> Result<Vec<Vec<MySqlRow>>, sqlx::Error> {
    if reads.is_empty() {
        connection.execute(raw_sql(AssertSqlSafe(text))).await?;
        return Ok(Vec::new());
    }
    push_all::<text::Text>(&mut text, reads);
    Ok(shared::last_rows(shared::answers::<MySql>(connection, text).await?, reads.len()))
}

pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
