//! The archived messages of a PostgreSQL database.

use sqlx::{PgPool, Postgres};

use super::{
    foreign,
    parked::{WORDS, begin},
};
use crate::{
    archive::ArchiveStore,
    source::{
        At, SourceError,
        mapping::Mapping,
        replay::{Home, archive_store},
    },
};

archive_store!(PostgresArchive, Postgres, &WORDS, begin);

/// The archived messages of one source, which came from the outbox or from a table of somebody else: there they go back to, and are
/// as old as they were.
pub(in crate::source) async fn open(
    name: &str,
    pool: &PgPool,
    table: Option<&Mapping>,
) -> Result<Box<dyn ArchiveStore>, SourceError> {
    let at = At { name };
    let home = match table {
        None => Home::outbox(&WORDS),
        Some(mapping) => {
            let mut connection = at.bounded("connecting", pool.acquire()).await?;
            let home = foreign::plan(at, &mut connection, mapping).await?.home;
            Home { table: home.table, columns: home.columns, values: home.values }
        }
    };
    Ok(Box::new(PostgresArchive { source: name.to_owned(), pool: pool.clone(), home }))
}
