//! Where a message of a MariaDB or MySQL database is.

use sqlx::{MySql, MySqlPool};

use super::parked::WORDS;
use crate::{explain::Finder, source::explain::finder};

finder!(MySqlFinder, MySql, &WORDS);

/// The tables of one source.
pub(in crate::source) fn open(name: &str, pool: &MySqlPool) -> Box<dyn Finder> {
    let outbox = "outbox".to_owned();
    Box::new(MySqlFinder { source: name.to_owned(), pool: pool.clone(), outbox })
}
