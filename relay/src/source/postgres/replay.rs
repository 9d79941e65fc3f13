//! The archived messages of a PostgreSQL database.

use sqlx::Postgres;

use super::parked::{WORDS, begin};
use crate::source::replay::archive_store;

archive_store!(PostgresArchive, Postgres, &WORDS, begin);
