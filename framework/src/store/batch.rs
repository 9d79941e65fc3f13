//! What batches need from a database: many idempotency records in one opening text, and no statement that ends the
//! transaction.
//!
//! In a batch the records of all messages are in one transaction. A handler that ended it by hand would commit the records of
//! messages that were not handled, and these would be skipped as duplicates. So the connection of a batch takes only
//! statements that cannot end a transaction: `cannot_end_a_transaction` knows them by their first word. A message that needs
//! another one fails there, before it was sent, and is handled alone.

use std::future::Future;

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Database, Execute, Executor, SqlStr, error::BoxDynError, raw_sql};
use uuid::Uuid;

use super::{
    backend::{IdempotencyKey, Recorded},
    statement::Statement,
};

/// The rows of several messages at once. All keys are of one bus, and each id is there once.
pub trait BatchRows: Database {
    /// Sends the opening text with the records of all `keys`: the transaction, the records, the savepoint `barid_unit`. Never
    /// empty. Where one of the answers is [`Recorded::InProgress`] the transaction may be gone.
    fn open_batch(
        connection: &mut Self::Connection,
        keys: &[IdempotencyKey],
    ) -> impl Future<Output = Result<Vec<Recorded>, sqlx::Error>> + Send;

    /// Counts one attempt at each message that has no row yet; the ids of those.
    fn count_first(
        connection: &mut Self::Connection,
        keys: &[IdempotencyKey],
    ) -> impl Future<Output = Result<Vec<Uuid>, sqlx::Error>> + Send;

    /// Takes back the only attempt at each message.
    fn take_back_first(
        connection: &mut Self::Connection,
        keys: &[IdempotencyKey],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// Fresh where the insert returned the id; otherwise a duplicate where the record can be read, and in progress where not.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(super) fn recorded(keys: &[IdempotencyKey], inserted: &[Uuid], committed: &[Uuid]) -> Vec<Recorded> {
    let said = |key: &IdempotencyKey| match (inserted, committed) {
        (inserted, _) if inserted.contains(&key.message_id) => Recorded::Fresh,
        (_, committed) if committed.contains(&key.message_id) => Recorded::Duplicate,
        _ => Recorded::InProgress,
    };
    keys.iter().map(said).collect()
}

/// `before`, the bus's name, and the ids in parentheses.
pub(crate) fn of_messages(before: &'static str, keys: &[IdempotencyKey]) -> Statement {
    let scope = keys.first().map_or("", |key| key.scope.as_str());
    let mut statement = Statement::new(before).sql(" WHERE scope=").text(scope).sql(" AND message_id IN(");
    for (at, key) in keys.iter().enumerate() {
        statement = if at == 0 { statement } else { statement.sql(",") }.id(key.message_id);
    }
    statement.sql(")")
}

/// Forgets the attempts at messages; joins the closing text that handles them.
pub(crate) fn forgotten(keys: &[IdempotencyKey]) -> Statement {
    of_messages("DELETE FROM attempts", keys)
}

/// Sends a text of which only one statement returns rows, and those have an id first.
pub(super) async fn ids<DB: Database>(
    connection: &mut DB::Connection,
    text: String,
) -> Result<Vec<Uuid>, sqlx::Error>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    Uuid: for<'r> sqlx::Decode<'r, DB> + sqlx::Type<DB>,
    usize: sqlx::ColumnIndex<DB::Row>,
{
    let rows = connection.fetch(raw_sql(AssertSqlSafe(text)));
    rows.and_then(|row| std::future::ready(sqlx::Row::try_get::<Uuid, _>(&row, 0))).try_collect().await
}

/// A statement taken apart, to be looked at before it is sent.
pub(super) struct Inspected<DB: Database> {
    sql: SqlStr,
    statement: Option<DB::Statement>,
    arguments: Option<Result<Option<DB::Arguments>, BoxDynError>>,
    persistent: bool,
}

impl<DB: Database> Inspected<DB> {
    /// The statement, if it cannot end a transaction.
    pub(super) fn new<'q>(mut query: impl Execute<'q, DB>) -> Result<Self, sqlx::Error> {
        let (arguments, persistent) = (Some(query.take_arguments()), query.persistent());
        let (statement, sql) = (query.statement().cloned(), query.sql());
        if cannot_end_a_transaction(sql.as_str()) {
            return Ok(Self { sql, statement, arguments, persistent });
        }
        let said = "this statement does not run in a batch, because it could end the transaction of all messages: only single \
                    SELECT, INSERT, UPDATE, DELETE, REPLACE, MERGE, VALUES and WITH statements do. The message is handled alone";
        Err(sqlx::Error::InvalidArgument(said.to_owned()))
    }
}

impl<'q, DB: Database> Execute<'q, DB> for Inspected<DB> {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&DB::Statement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        self.arguments.take().unwrap_or(Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// Whether `sql` is one statement of a kind that leaves the transaction as it is, on each of the databases, or fails.
///
/// PostgreSQL lets procedures and DO blocks end a transaction, but no function; MariaDB and MySQL neither functions nor
/// triggers; SQLite's ON CONFLICT ROLLBACK ends it with an error, which poisons the unit. Everything else counts as
/// dangerous, and so does a semicolon in a literal: the message is handled alone then, which is slower and not wrong.
fn cannot_end_a_transaction(sql: &str) -> bool {
    const HARMLESS: [&str; 8] =
        ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "VALUES", "WITH"];
    let statement = without_leading_comments(sql);
    let word = statement.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let single = !statement.trim_end().trim_end_matches(';').contains(';');
    single && HARMLESS.iter().any(|harmless| harmless.eq_ignore_ascii_case(word))
}

/// Comments that MariaDB executes (`/*!`, `/*M!`) stay.
fn without_leading_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        let after = if let Some(line) = rest.strip_prefix("--") {
            line.split_once('\n').map(|(_, after)| after)
        } else if rest.starts_with("/*!") || rest.starts_with("/*M!") {
            None
        } else {
            rest.strip_prefix("/*").and_then(|comment| comment.split_once("*/")).map(|(_, after)| after)
        };
        match after {
            Some(after) => rest = after,
            None => return rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_statements_that_leave_the_transaction_alone_run_in_a_batch() {
        let check = |sql, harmless| assert_eq!(cannot_end_a_transaction(sql), harmless, "{sql}");
        for sql in [
            "SELECT 1",
            "insert into t values (1);",
            " -- why\n /* and how */ UPDATE t SET a = 1 ; ",
            "(SELECT 1) UNION (SELECT 2)",
            "WITH x AS (SELECT 1) DELETE FROM t",
        ] {
            check(sql, true);
        }
        for sql in [
            "COMMIT",
            "rollback",
            "END",
            "ABORT",
            "BEGIN",
            "START TRANSACTION",
            "PREPARE TRANSACTION 'x'",
            "RELEASE SAVEPOINT barid_unit",
            "CALL p()",
            "DO $$BEGIN COMMIT; END$$",
            "CREATE TABLE t (id INT)",
            "SET autocommit = 1",
            "INSERT INTO t VALUES (1); COMMIT",
            "/*! COMMIT */",
            "/*M! COMMIT */ SELECT 1",
            "-- SELECT",
            "SELECTED",
            "",
        ] {
            check(sql, false);
        }
    }
}
