//! SQLite: a cursor along `seq`.
//!
//! SQLite has one writer at a time, so the order of `seq` is the order of the commits and `seq > last` loses nothing. The
//! reader asks `PRAGMA data_version` first, which costs no I/O and tells whether another connection has committed.
//! Whoever writes takes the file's in-process lock first, so that the relay and a bus in one process wait in turn.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Sqlite, SqlitePool, pool::PoolConnection};

use super::{At, Candidate, Leases, Reader, Source, SourceError, Writer};

mod archive;
pub(super) mod doctor;
pub(super) mod explain;
mod lease;
pub(super) mod parked;
mod reader;
pub(super) mod replay;
pub(super) mod survey;
mod writer;

/// The outbox of a SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    name: Arc<str>,
    pool: SqlitePool,
}

impl SqliteSource {
    /// The outbox of the file that `pool` is open on. The reader keeps one connection of the pool, the writer takes one
    /// for each batch.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, pool: SqlitePool) -> Self {
        Self { name: name.into(), pool }
    }

    fn at(&self) -> At<'_> {
        At { name: &self.name }
    }

    async fn connection(&self) -> Result<PoolConnection<Sqlite>, SourceError> {
        self.at().bounded("opening the file", self.pool.acquire()).await
    }

    fn refuse_memory(&self) -> Result<(), SourceError> {
        // What sqlx calls a database that lives in memory.
        let file = self.pool.connect_options().get_filename().to_string_lossy().into_owned();
        if !file.contains("sqlx-in-memory") {
            return Ok(());
        }
        let cause = "an in-memory database has one connection, and a relay needs two".to_owned();
        Err(SourceError::Unsuitable { source_name: self.name.to_string(), cause, remedy: "use a file" })
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn leases(&self, by: &Candidate) -> Result<Box<dyn Leases>, SourceError> {
        self.refuse_memory()?;
        Ok(Box::new(lease::SqliteLeases::new(self.clone(), by)))
    }

    async fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        self.refuse_memory()?;
        Ok(Box::new(reader::CursorReader::new(self.name.clone(), self.connection().await?)))
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError> {
        Ok(Box::new(writer::SqliteWriter::new(self.clone())))
    }
}
