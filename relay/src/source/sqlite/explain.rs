//! Where a message of a SQLite file is.

use sqlx::{Sqlite, SqlitePool};

use super::parked::WORDS;
use crate::{explain::Finder, source::explain::finder};

finder!(SqliteFinder, Sqlite, &WORDS);

/// The tables of one source.
pub(in crate::source) fn open(name: &str, pool: &SqlitePool) -> Box<dyn Finder> {
    let outbox = "outbox".to_owned();
    Box::new(SqliteFinder { source: name.to_owned(), pool: pool.clone(), outbox })
}
