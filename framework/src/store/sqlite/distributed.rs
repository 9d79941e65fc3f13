//! The tables `dtx_*` on SQLite, which cannot be prepared: it is a home or a last resource.

use sqlx::{
    Row, Sqlite,
    error::DatabaseError,
    sqlite::{SqliteQueryResult, SqliteRow},
};
use uuid::Uuid;

use crate::{
    distributed::BranchId,
    store::{distributed::DtxRows, statement::Statement},
};

impl DtxRows for Sqlite {
    const RESOURCE_TYPE: &'static str = "sqlite";
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn later(statement: Statement, millis: i64) -> Statement {
        statement.sql("CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)+").int(millis)
    }

    fn tombstone(branch: &BranchId) -> Statement {
        let insert = Statement::new("INSERT INTO dtx_marker(xid,state)VALUES(").text(branch.to_string());
        insert.sql(",'aborted')ON CONFLICT DO NOTHING")
    }

    fn since_1970(statement: Statement, column: &'static str) -> Statement {
        statement.sql(column)
    }

    fn maybe_int(row: &SqliteRow, column: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(column)
    }

    fn affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }

    fn text(row: &SqliteRow, column: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    fn int(row: &SqliteRow, column: usize) -> Result<i64, sqlx::Error> {
        row.try_get(column)
    }

    fn id(row: &SqliteRow, column: usize) -> Result<Uuid, sqlx::Error> {
        row.try_get(column)
    }

    /// SQLITE_BUSY, SQLITE_LOCKED.
    fn is_contention(error: &dyn DatabaseError) -> bool {
        error
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 5 | 6))
    }
}
