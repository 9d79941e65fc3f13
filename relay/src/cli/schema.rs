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
        warn_of_password(&url);
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

/// What is among the arguments, every user of the machine sees in `ps`.
fn warn_of_password(url: &str) {
    let has_password = url::Url::parse(url).is_ok_and(|url| url.password().is_some());
    let in_arguments = std::env::args_os().any(|argument| argument.to_string_lossy().contains(url));
    if has_password && in_arguments {
        eprintln!(
            "warning: every user of this machine can see the password on the command line; put the address into BARID_RELAY_SCHEMA_URL"
        );
    }
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
