//! The archived messages of a SQLite file.

use sqlx::Sqlite;

use super::parked::{WORDS, begin};
use crate::source::replay::archive_store;

archive_store!(SqliteArchive, Sqlite, &WORDS, begin);
