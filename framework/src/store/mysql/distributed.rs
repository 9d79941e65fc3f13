//! The tables `dtx_*` on MariaDB and MySQL.

use sqlx::{
    MySql, Row,
    error::DatabaseError,
    mysql::{MySqlDatabaseError, MySqlQueryResult, MySqlRow},
};
use uuid::Uuid;

use crate::{
    distributed::BranchId,
    store::{distributed::DtxRows, statement::Statement},
};

/// A branch in flight makes a statement that begins so wait for two seconds on MariaDB; MySQL reads a comment.
const SOON: &str = "/*M! SET STATEMENT innodb_lock_wait_timeout=2 FOR */";

impl DtxRows for MySql {
    const RESOURCE_TYPE: &'static str = "mysql";
    const BEGIN: &'static str = "BEGIN";

    fn later(statement: Statement, millis: i64) -> Statement {
        statement.sql("UTC_TIMESTAMP(6)+INTERVAL ").int(millis.saturating_mul(1_000)).sql(" MICROSECOND")
    }

    /// Plain, not IGNORE, which would hide other errors.
    fn tombstone(branch: &BranchId) -> Statement {
        let insert = Statement::new(SOON).sql("INSERT INTO dtx_marker(xid,state)VALUES(");
        insert.text(branch.to_string()).sql(",'aborted')")
    }

    fn marked(branch: &BranchId) -> Statement {
        let select = Statement::new(SOON).sql("SELECT state FROM dtx_marker WHERE xid=");
        select.text(branch.to_string()).sql(" LOCK IN SHARE MODE")
    }

    fn since_1970(statement: Statement, column: &'static str) -> Statement {
        statement.sql("TIMESTAMPDIFF(MICROSECOND,'1970-01-01',").sql(column).sql(")DIV 1000")
    }

    fn maybe_int(row: &MySqlRow, column: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(column)
    }

    fn affected(result: &MySqlQueryResult) -> u64 {
        result.rows_affected()
    }

    fn text(row: &MySqlRow, column: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    fn int(row: &MySqlRow, column: usize) -> Result<i64, sqlx::Error> {
        row.try_get(column)
    }

    fn id(row: &MySqlRow, column: usize) -> Result<Uuid, sqlx::Error> {
        row.try_get(column)
    }

    fn is_contention(error: &dyn DatabaseError) -> bool {
        error
            .try_downcast_ref::<MySqlDatabaseError>()
            .is_some_and(|answer| matches!(answer.number(), 1020 | 1205 | 1213))
    }
}
