//! Where a message of a PostgreSQL database is.

use sqlx::Postgres;

use super::parked::WORDS;
use crate::source::explain::finder;

finder!(PostgresFinder, Postgres, &WORDS);
