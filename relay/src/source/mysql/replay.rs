//! The archived messages of a MariaDB or MySQL database.

use sqlx::{MySql, MySqlPool};

use super::parked::{WORDS, begin};
use crate::{
    archive::ArchiveStore,
    source::replay::{Home, archive_store},
};

archive_store!(MySqlArchive, MySql, &WORDS, begin);

/// The archived messages of one source.
pub(in crate::source) fn open(name: &str, pool: &MySqlPool) -> Box<dyn ArchiveStore> {
    Box::new(MySqlArchive { source: name.to_owned(), pool: pool.clone(), home: Home::outbox(&WORDS) })
}
