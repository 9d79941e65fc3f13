//! The connection that handlers get: an sqlx executor, and nothing else.
//!
//! It does not implement `Acquire` or `Connection` and gives no way to the driver's connection: on a plain connection
//! after a text BEGIN, `begin()` and `commit()` would end the whole unit. Nesting is [`UnitConnection::savepoint`].

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{Database, Either, Execute, Executor, SqlStr, pool::PoolConnection};

use super::{
    backend::{Backend, IdempotencyKey, Opened, Prepared, Recorded, Verdict, sever},
    batch::Inspected,
    kept::Kept,
    statement::{Opening, Statement, Writes},
};
use crate::{error::Result, transport::OutgoingRow};

mod savepoint;
pub use savepoint::Savepoint;

/// A connection inside an open unit of work. Pass `&mut *db` where sqlx wants an executor.
///
/// Any statement that fails poisons the unit: it will roll back even if the handler ignores the error, because the
/// databases do not agree on what is left of the transaction. Use [`UnitConnection::savepoint`] around what may fail.
///
/// There is no `begin`, `commit`, `rollback`, `close` or `acquire`; a test shows that they do not compile.
pub struct UnitConnection<DB: Backend> {
    /// `None` once it was given back or severed.
    connection: Option<PoolConnection<DB>>,
    /// Whether a transaction may be open: then dropping severs.
    open: bool,
    /// What is known of the statements that make the two texts cheap.
    pub(super) prepared: Prepared,
    /// Whether several messages share the transaction, so that none of them may end it.
    shared: bool,
    poisoned: AtomicBool,
    /// Whether a statement is known to have changed rows. That none is known says nothing.
    wrote: AtomicBool,
    savepoints: u32,
}

impl<DB: Backend> UnitConnection<DB> {
    pub(super) fn hold(connection: PoolConnection<DB>) -> Self {
        Self {
            connection: Some(connection),
            open: false,
            prepared: Prepared::Unknown,
            shared: false,
            poisoned: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            savepoints: 0,
        }
    }

    pub(super) fn live(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.connection.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    pub(super) async fn open(&mut self, opening: &Opening) -> Result<Opened<DB>, sqlx::Error> {
        // Before the text is sent: a future that is dropped from here on leaves a transaction that must be severed.
        self.open = true;
        let mut prepared = self.prepared;
        let opened = DB::open(self.live()?, opening, &mut prepared).await;
        self.prepared = prepared;
        opened
    }

    /// The same for several messages. Without keys they have no records, and the answer is empty unless the database is busy.
    pub(super) async fn open_batch(&mut self, keys: &[IdempotencyKey]) -> Result<Vec<Recorded>, sqlx::Error> {
        if keys.is_empty() {
            let opened = self.open(&Opening::default()).await?;
            self.shared = true;
            let busy = opened.recorded == Recorded::InProgress;
            return Ok(if busy { vec![Recorded::InProgress] } else { Vec::new() });
        }
        (self.open, self.shared) = (true, true);
        DB::open_batch(self.live()?, keys).await
    }

    /// Runs one statement of Barid's own inside the unit; how many rows it touched, and those it found.
    pub(super) async fn ask(&mut self, statement: &Statement) -> Result<(u64, Vec<DB::Row>), sqlx::Error> {
        let answer = DB::ask(self.live()?, statement).await;
        poison(&self.poisoned, answer.is_err());
        answer
    }

    pub(super) async fn finish(&mut self, writes: &Writes) -> Result<(), sqlx::Error> {
        let prepared = self.prepared;
        DB::commit(self.live()?, writes, prepared).await?;
        self.open = false;
        Ok(())
    }

    pub(super) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        if !self.open || self.connection.is_none() {
            return Ok(());
        }
        // A transaction that was ended by hand makes ROLLBACK fail on SQLite; the connection is severed then, which
        // rolls back what there may be.
        let answer = DB::simple(self.live()?, "ROLLBACK".to_owned()).await;
        match answer {
            Ok(()) => self.open = false,
            Err(_) => self.take().map_or((), sever),
        }
        answer
    }

    /// Gives the connection back when nothing is open on it, severs it otherwise.
    pub(super) fn give_back(&mut self, kept: &std::sync::Arc<Kept<DB>>) {
        if self.prepared == Prepared::Impossible {
            kept.cannot_prepare();
        }
        if let Some(connection) = self.connection.take() {
            if self.open { sever(connection) } else { kept.put(connection) }
        }
    }

    pub(super) fn take(&mut self) -> Option<PoolConnection<DB>> {
        self.connection.take()
    }

    /// The unit can no longer commit.
    pub(super) fn poison(&self) {
        poison(&self.poisoned, true);
    }

    /// Sends a text of Barid's own in or around a transaction of its own; dropped before the answer, or without one, the connection
    /// is severed. `open` says whether a transaction is open after it.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(super) async fn say(&mut self, text: String, open: bool) -> Result<(), sqlx::Error> {
        let before = std::mem::replace(&mut self.open, true);
        let answer = DB::simple(self.live()?, text).await;
        self.open = match &answer {
            Ok(()) => open,
            Err(error) => before || DB::verdict(error) == Verdict::Unknown,
        };
        answer
    }

    /// Runs one statement that is a transaction by itself; dropped before the answer, or without one, the connection is severed.
    pub(super) async fn alone(&mut self, statement: &Statement) -> Result<(u64, Vec<DB::Row>), sqlx::Error> {
        self.open = true;
        let answer = DB::ask(self.live()?, statement).await;
        self.open = answer.as_ref().is_err_and(|error| DB::verdict(error) == Verdict::Unknown);
        answer
    }

    /// Sends one text that is a whole transaction, BEGIN and COMMIT included. What was refused is rolled back.
    pub(super) async fn whole(&mut self, text: &Statement) -> Result<(), sqlx::Error> {
        self.open = true;
        match DB::ask(self.live()?, text).await {
            Ok(_) => {
                self.open = false;
                Ok(())
            }
            Err(error) => {
                if DB::verdict(&error) == Verdict::Refused {
                    // The connection is severed when this fails, which rolls back too.
                    drop(self.roll_back().await);
                }
                Err(error)
            }
        }
    }

    /// Nothing is open on it any more: what was is prepared, and belongs to nobody.
    #[cfg(feature = "postgres")]
    pub(super) fn ended(&mut self) {
        self.open = false;
    }

    /// Whether a statement is known to have changed rows.
    #[cfg(feature = "postgres")]
    pub(super) fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    pub(super) async fn insert_outbox(&mut self, rows: &[OutgoingRow]) -> Result<(), sqlx::Error> {
        let answer = DB::insert_outbox(self.live()?, rows).await;
        poison(&self.poisoned, answer.is_err());
        poison(&self.wrote, answer.is_ok());
        answer
    }

    pub(super) fn poisoned(&self) -> Option<&'static str> {
        if self.savepoints > 0 {
            Some("a savepoint was neither released nor rolled back")
        } else if self.poisoned.load(Ordering::Relaxed) {
            Some(
                "a statement in the unit of work failed, so it cannot commit; put what may fail into a savepoint",
            )
        } else {
            None
        }
    }

    /// Begins a nested scope whose failure does not poison the unit.
    ///
    /// The returned guard derefs to this type. [`Savepoint::release`] keeps what was done, [`Savepoint::rollback`] undoes
    /// it; a guard that is dropped without either poisons the unit.
    ///
    /// # Errors
    /// When the database refuses or is gone.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_, DB>> {
        let depth = self.savepoints + 1;
        self.savepoints = depth;
        let before = self.poisoned.load(Ordering::Relaxed);
        DB::simple(self.live()?, format!("SAVEPOINT barid_{depth}")).await?;
        Ok(Savepoint { unit: self, depth, poisoned_before: before })
    }
}

impl<DB: Backend> Drop for UnitConnection<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.open
        {
            sever(connection);
        }
    }
}

impl<DB: Backend> fmt::Debug for UnitConnection<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitConnection")
            .field("database", &DB::DISPLAY)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl<'c, DB: Backend> Executor<'c> for &'c mut UnitConnection<DB>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    type Database = DB;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<<DB as Database>::QueryResult, <DB as Database>::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let UnitConnection { connection, poisoned, shared, wrote, .. } = self;
        let Some(connection) = connection.as_deref_mut() else {
            return futures::stream::once(async { Err(sqlx::Error::PoolClosed) }).boxed();
        };
        let (poisoned, wrote) = (&*poisoned, &*wrote);
        let mut rows = false;
        let look = move |step: &Result<Either<DB::QueryResult, DB::Row>, sqlx::Error>| match step {
            Ok(Either::Right(_)) => rows = true,
            // A statement without rows that affected some.
            Ok(Either::Left(result)) => {
                poison(wrote, !std::mem::take(&mut rows) && DB::affected(result) > 0);
            }
            Err(_) => poison(poisoned, true),
        };
        if *shared {
            return match Inspected::new(query) {
                Ok(query) => connection.fetch_many(query).inspect(look).boxed(),
                Err(refused) => {
                    poison(poisoned, true);
                    futures::stream::once(async { Err(refused) }).boxed()
                }
            };
        }
        connection.fetch_many(query).inspect(look).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<<DB as Database>::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let UnitConnection { connection, poisoned, shared, .. } = self;
        let Some(connection) = connection.as_deref_mut() else {
            return async { Err(sqlx::Error::PoolClosed) }.boxed();
        };
        let poisoned = &*poisoned;
        if *shared {
            return match Inspected::new(query) {
                Ok(query) => connection
                    .fetch_optional(query)
                    .inspect(move |answer| poison(poisoned, answer.is_err()))
                    .boxed(),
                Err(refused) => {
                    poison(poisoned, true);
                    async { Err(refused) }.boxed()
                }
            };
        }
        connection.fetch_optional(query).inspect(move |answer| poison(poisoned, answer.is_err())).boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [<DB as Database>::TypeInfo],
    ) -> BoxFuture<'e, Result<<DB as Database>::Statement, sqlx::Error>>
    where
        'c: 'e,
    {
        let UnitConnection { connection, poisoned, .. } = self;
        let Some(connection) = connection.as_deref_mut() else {
            return async { Err(sqlx::Error::PoolClosed) }.boxed();
        };
        let poisoned = &*poisoned;
        connection
            .prepare_with(sql, parameters)
            .inspect(move |answer| poison(poisoned, answer.is_err()))
            .boxed()
    }
}

/// Sets a flag that stays set.
fn poison(flag: &AtomicBool, set: bool) {
    if set {
        flag.store(true, Ordering::Relaxed);
    }
}

/// What would end the unit of work does not exist on anything that a handler gets. Each case is the same program as the one
/// that compiles, but for the call.
#[cfg(doctest)]
mod cannot_end_the_unit {
    macro_rules! program {
        ($name:ident, $kind:literal, $argument:literal, $call:literal) => {
            #[doc = concat!("```", $kind, "\nuse sqlx::{Acquire, Connection, Sqlite};\n")]
            #[doc = concat!("async fn handler(", $argument, ") -> barid::Result<()> {\n")]
            #[doc = concat!("    db.", $call, "().await?;\n    Ok(())\n}\n```")]
            pub struct $name;
        };
    }
    macro_rules! on {
        ($module:ident, $argument:literal) => {
            pub mod $module {
                program!(Savepoint, "no_run", $argument, "savepoint");
                program!(Begin, "compile_fail", $argument, "begin");
                program!(Commit, "compile_fail", $argument, "commit");
                program!(Rollback, "compile_fail", $argument, "rollback");
                program!(Close, "compile_fail", $argument, "close");
                program!(Acquire, "compile_fail", $argument, "acquire");
            }
        };
    }
    on!(guard, "mut db: barid::UnitGuard<Sqlite>");
    on!(connection, "db: &mut barid::UnitConnection<Sqlite>");
}
