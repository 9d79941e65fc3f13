//! The archived messages of a MariaDB or MySQL database.

use sqlx::MySql;

use super::parked::{WORDS, begin};
use crate::source::replay::archive_store;

archive_store!(MySqlArchive, MySql, &WORDS, begin);
