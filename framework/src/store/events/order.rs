//! The global order: who reads all streams gives the events that have committed their positions.
//!
//! One row is locked meanwhile, so positions become visible in their own order and without gaps, and `position > last` is all that
//! a reader has to ask. The order in which rows were inserted decides among those that are given at once: the later of two
//! events of a stream is inserted after the earlier one has committed, so who sees it sees the earlier one too, with a lower
//! number. Nobody waits for a transaction that has not committed: its rows are not seen here.

use super::{Fault, Work};
use crate::{
    event_store::{Direction, Slice},
    limits,
    store::{backend::Backend, connection::UnitConnection, statement::Statement},
};

/// Whether a page needs positions that were not given. Whoever reads back from a known position needs none.
pub(super) async fn lacks<DB: Backend>(connection: &mut DB::Connection, slice: Slice) -> Result<bool, Fault> {
    if slice.direction == Direction::Backward && slice.after.is_some() {
        return Ok(false);
    }
    let statement = Statement::new("SELECT seq FROM event_log WHERE position IS NULL LIMIT 1");
    Ok(!DB::ask(connection, &statement).await?.1.is_empty())
}

/// Gives the first events that have none their positions, and says how many there were.
pub(super) struct Give;

impl<DB: Backend> Work<DB> for Give {
    type Done = u64;

    async fn run(&self, unit: &mut UnitConnection<DB>) -> Result<u64, Fault> {
        let connection = unit.live()?;
        // The lock is a statement of its own: what follows must see what its last holder has committed.
        let lock = Statement::new("SELECT last FROM event_order WHERE id=1").sql(DB::AND_LOCK);
        if DB::ask(connection, &lock).await?.1.is_empty() {
            return Err(Fault::from(
                "the table event_order has no row; write (1, the highest position) into it".to_owned(),
            ));
        }
        let find = Statement::new("SELECT seq,(SELECT last FROM event_order WHERE id=1) FROM event_log WHERE position IS NULL ORDER BY seq LIMIT ")
            .int(limits::EVENTS_ORDER_ROWS.into());
        let (_, rows) = DB::ask(connection, &find).await?;
        let Some(first) = rows.first() else { return Ok(0) };
        let mut position = DB::int_at(first, 1)?.ok_or(sqlx::Error::RowNotFound)?;
        let mut write = Statement::new("");
        for row in &rows {
            position += 1;
            // Row by row: a range would lock what was inserted in between and has not committed.
            write = write.sql("UPDATE event_log SET position=").int(position).sql(" WHERE seq=");
            write = write.int(DB::int_at(row, 0)?.ok_or(sqlx::Error::RowNotFound)?).sql(";");
        }
        let write = write.sql("UPDATE event_order SET last=").int(position).sql(" WHERE id=1");
        DB::ask(connection, &write).await?;
        Ok(rows.len() as u64)
    }
}
