//! SQLite: a cursor along `seq`.
//!
//! SQLite has one writer at a time, so the order of `seq` is the order of the commits and `seq > last` loses nothing. The
//! reader asks `PRAGMA data_version` first, which costs no I/O and tells whether another connection has committed.
//! Whoever writes takes the file's in-process lock first, so that the relay and a bus in one process wait in turn.

use std::{
    fs::{File, TryLockError},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use sqlx::{Sqlite, SqlitePool, pool::PoolConnection};

use super::{At, Claim, Reader, Source, SourceError, Writer};

pub(super) mod parked;
mod reader;
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

    /// The claim: a lock on a file beside the database, which the operating system gives up with the process.
    fn claim(&self) -> Result<File, SourceError> {
        let options = self.pool.connect_options();
        let unsuitable =
            |cause, remedy| SourceError::Unsuitable { source_name: self.name.to_string(), cause, remedy };
        // What sqlx calls a database that lives in memory.
        if options.get_filename().to_string_lossy().contains("sqlx-in-memory") {
            let cause = "an in-memory database has one connection, and a relay needs two".to_owned();
            return Err(unsuitable(cause, "use a file"));
        }
        let mut path = PathBuf::from(options.get_filename());
        path.as_mut_os_string().push(".barid-relay");
        let remedy = "make the folder of the database writable";
        let failed =
            |error: std::io::Error| unsuitable(format!("cannot lock {}: {error}", path.display()), remedy);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(SourceError::Busy { source_name: self.name.to_string() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn reader(&self) -> Result<(Claim, Box<dyn Reader>), SourceError> {
        let lock = self.claim()?;
        let reader = reader::CursorReader::new(self.name.clone(), lock, self.connection().await?);
        // The lock cannot be lost while this process lives, so its ownership never changes.
        Ok((Claim { epoch: 0 }, Box::new(reader)))
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError> {
        Ok(Box::new(writer::SqliteWriter::new(self.clone())))
    }
}
