//! The tables `dtx_*` on PostgreSQL.

use sqlx::{
    Postgres, Row,
    error::DatabaseError,
    postgres::{PgQueryResult, PgRow},
};
use uuid::Uuid;

use crate::{
    distributed::BranchId,
    store::{distributed::DtxRows, statement::Statement},
};

impl DtxRows for Postgres {
    const RESOURCE_TYPE: &'static str = "postgres";
    const BEGIN: &'static str = "BEGIN";
    const BEGIN_LAZY: &'static str = "BEGIN;SET LOCAL synchronous_commit=off";
    const READ_LOCKED: &'static str = "";

    fn later(statement: Statement, millis: i64) -> Statement {
        statement.sql("now()+").int(millis).sql("*interval '1 millisecond'")
    }

    /// Waits until a branch in flight has ended, for as long as any call may take.
    fn tombstone(branch: &BranchId) -> Statement {
        let insert = Statement::new("INSERT INTO dtx_marker(xid,state)VALUES(").text(branch.to_string());
        insert.sql(",'aborted')ON CONFLICT DO NOTHING")
    }

    fn since_1970(statement: Statement, column: &'static str) -> Statement {
        statement.sql("(extract(epoch from ").sql(column).sql(")*1000)::bigint")
    }

    fn maybe_int(row: &PgRow, column: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(column)
    }

    fn affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    fn text(row: &PgRow, column: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    fn int(row: &PgRow, column: usize) -> Result<i64, sqlx::Error> {
        // Of whichever width the column is.
        row.try_get(column)
            .or_else(|_| row.try_get::<i32, _>(column).map(i64::from))
            .or_else(|_| row.try_get::<i16, _>(column).map(i64::from))
    }

    fn id(row: &PgRow, column: usize) -> Result<Uuid, sqlx::Error> {
        row.try_get(column)
    }

    fn is_contention(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03"))
    }
}
