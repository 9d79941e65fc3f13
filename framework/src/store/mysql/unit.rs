//! The unit of work's statements on MariaDB and MySQL.

use sqlx::{
    AssertSqlSafe, Executor, MySql, MySqlConnection, Pool, QueryBuilder,
    mysql::{MySqlDatabaseError, MySqlRow},
    raw_sql,
};
use tokio::sync::OwnedMutexGuard;

use super::text;
use crate::{
    store::{
        AnyPool,
        backend::{self, Backend, Opened, Recorded, Verdict},
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
        _: &mut bool,
    ) -> Result<Opened<Self>, sqlx::Error> {
        let error = match send(connection, text::opening(opening.key.as_ref()), &opening.reads).await {
            Ok(reads) => return Ok(Opened { recorded: Recorded::Fresh, reads }),
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

    fn closing(writes: &Writes, _: bool) -> Option<String> {
        shared::closing::<text::Text>(writes)
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

fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
