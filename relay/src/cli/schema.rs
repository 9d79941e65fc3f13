//! `barid-relay schema print` and `barid-relay schema apply`

use std::path::Path;

use barid::store::{
    AnyPool,
    schema::{self, SchemaError},
};
use secrecy::ExposeSecret;

use super::{DialectName, Failure, load};

pub(super) fn print(dialect: DialectName) -> Result<(), Failure> {
    println!("{}", schema::print(dialect.into()));
    Ok(())
}

/// Applies to the database at `url`, or to those of every source and SQL sink of the configuration.
pub(super) async fn apply(url: Option<String>, file: &Path) -> Result<(), Failure> {
    let mut urls = Vec::new();
    if let Some(url) = url {
        urls.push(url);
    } else {
        let config = load(file)?;
        for (name, source) in &config.source {
            urls.push(crate::setup::source_address(name, source)?.expose_secret().to_owned());
        }
        for (name, sink) in &config.sink {
            if let Some(url) = crate::setup::sql_address(name, sink)? {
                urls.push(url.expose_secret().to_owned());
            }
        }
        urls.sort();
        urls.dedup();
    }
    for url in urls {
        apply_to(&AnyPool::connect(&url, 1).await?).await?;
    }
    Ok(())
}

async fn apply_to(pool: &AnyPool) -> Result<(), SchemaError> {
    let applied = schema::apply(pool).await?;
    for step in &applied {
        println!("{}: applied {:04} {}", pool.place(), step.version, step.name);
    }
    if applied.is_empty() {
        println!("{}: nothing to apply", pool.place());
    }
    Ok(())
}
