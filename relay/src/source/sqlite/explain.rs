//! Where a message of a SQLite file is.

use sqlx::Sqlite;

use super::parked::WORDS;
use crate::source::explain::finder;

finder!(SqliteFinder, Sqlite, &WORDS);
