//! The archived messages of a SQLite file.

use sqlx::{Sqlite, SqlitePool};

use super::parked::{WORDS, begin};
use crate::{
    archive::ArchiveStore,
    source::replay::{Home, archive_store},
};

archive_store!(SqliteArchive, Sqlite, &WORDS, begin);

/// The archived messages of one source.
pub(in crate::source) fn open(name: &str, pool: &SqlitePool) -> Box<dyn ArchiveStore> {
    Box::new(SqliteArchive { source: name.to_owned(), pool: pool.clone(), home: Home::outbox(&WORDS) })
}
