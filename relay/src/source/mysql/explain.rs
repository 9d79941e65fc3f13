//! Where a message of a MariaDB or MySQL database is.

use sqlx::MySql;

use super::parked::WORDS;
use crate::source::explain::finder;

finder!(MySqlFinder, MySql, &WORDS);
