//! What matters to distributed transactions on SQLite.

use sqlx::{Executor, Row, SqlitePool, raw_sql};

use crate::distributed::finding::{Finding, Part};

pub(in crate::store) async fn examine(pool: &SqlitePool, part: Part) -> Result<Vec<Finding>, sqlx::Error> {
    let version: String = pool.fetch_one(raw_sql("SELECT sqlite_version()")).await?.try_get(0)?;
    Ok(vec![match part {
        Part::Home => Finding::ok("server", format!("SQLite {version}")),
        Part::Branch => {
            let text = "SQLite cannot be prepared: it can be the home database, or one last resource, and nothing else";
            Finding::error("server", text)
        }
    }])
}
