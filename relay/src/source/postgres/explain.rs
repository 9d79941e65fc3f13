//! Where a message of a PostgreSQL database is.

use sqlx::{PgPool, Postgres};

use super::{foreign, parked::WORDS};
use crate::{
    explain::Finder,
    source::{At, SourceError, explain::finder, mapping::Mapping},
};

finder!(PostgresFinder, Postgres, &WORDS);

/// The tables of one source: the outbox, or what reads a table of somebody else with its names.
pub(in crate::source) async fn open(
    name: &str,
    pool: &PgPool,
    table: Option<&Mapping>,
) -> Result<Box<dyn Finder>, SourceError> {
    let at = At { name };
    let outbox = match table {
        None => "outbox".to_owned(),
        Some(mapping) => {
            let mut connection = at.bounded("connecting", pool.acquire()).await?;
            format!("({}) outbox", foreign::plan(at, &mut connection, mapping).await?.rows)
        }
    };
    Ok(Box::new(PostgresFinder { source: name.to_owned(), pool: pool.clone(), outbox }))
}
