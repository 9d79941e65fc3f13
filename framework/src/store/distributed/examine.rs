//! Whether a database is fit for distributed transactions: what an operator asks before, and when something is wrong.
//!
//! Looks only. Every look is bounded in time, and one that fails is a finding itself.

#[cfg(feature = "postgres")]
use crate::distributed::finding::Severity;
use crate::{
    distributed::finding::{Finding, Part},
    limits,
    store::{pool::AnyPool, schema},
};

/// A table, a column of it, and what has to be possible there.
#[cfg(any(feature = "postgres", feature = "mysql"))]
type Right = (&'static str, &'static str, &'static [&'static str]);

#[cfg(any(feature = "postgres", feature = "mysql"))]
const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// What a home needs.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const HOME: &[Right] = &[
    ("dtx_coordinator", "id", &["SELECT", "INSERT"]),
    ("dtx_transaction", "gid", ALL),
    ("dtx_branch", "gid", ALL),
    ("dtx_event", "gid", &["SELECT", "INSERT", "DELETE"]),
    ("dtx_audit", "gid", &["SELECT", "INSERT", "DELETE"]),
];

/// What a database needs that is prepared.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const BRANCH: &[Right] = &[("dtx_marker", "xid", &["SELECT", "INSERT", "DELETE"])];

/// Looks at a database, with the role of the pool: what matters is what the application's role may do.
pub async fn examine(pool: &AnyPool, part: Part) -> Vec<Finding> {
    let bound = limits::CALL_TIMEOUT;
    match tokio::time::timeout(bound, look(pool, part)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![Finding::error("look", format!("the database did not answer: {error}"))],
        Err(_) => vec![Finding::error("look", format!("the database did not answer within {bound:?}"))],
    }
}

async fn look(pool: &AnyPool, part: Part) -> Result<Vec<Finding>, sqlx::Error> {
    let mut all = Vec::new();
    // First, because behind a pooler everything else fails for reasons that name nothing.
    #[cfg(feature = "postgres")]
    #[cfg_attr(not(any(feature = "mysql", feature = "sqlite")), allow(irrefutable_let_patterns))]
    if let AnyPool::Postgres(pool) = pool {
        all.push(crate::store::postgres::pooler(pool).await?);
        if all[0].severity == Severity::Error {
            return Ok(all);
        }
    }
    if let Err(error) = schema::check(pool).await {
        all.push(Finding::error("schema", error.to_string()));
        return Ok(all);
    }
    all.extend(match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => crate::store::postgres::examine(pool, part).await?,
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => crate::store::mysql::examine(pool, part).await?,
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => crate::store::sqlite::examine(pool, part).await?,
    });
    Ok(all)
}

/// Statements that change nothing and need the rights that a part needs, with what each needs them for. Only a refusal for want of a
/// right counts.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(in crate::store) fn attempts(part: Part) -> Vec<(String, String)> {
    let needed = if part == Part::Home { HOME } else { BRANCH };
    let mut all = Vec::new();
    for (table, column, verbs) in needed {
        for verb in *verbs {
            let text = match *verb {
                "SELECT" => format!("SELECT {column} FROM {table} WHERE 1=0"),
                "INSERT" => format!("INSERT INTO {table}({column}) SELECT {column} FROM {table} WHERE 1=0"),
                "UPDATE" => format!("UPDATE {table} SET {column}={column} WHERE 1=0"),
                _ => format!("DELETE FROM {table} WHERE 1=0"),
            };
            all.push((text, format!("{verb} on {table}")));
        }
    }
    all
}

/// What the refused attempts come to.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(in crate::store) fn rights(refused: &[String], part: Part) -> Finding {
    if refused.is_empty() {
        return Finding::ok("rights", "the role may do what it has to");
    }
    let what = match part {
        Part::Home => "the home database",
        Part::Branch => "a database that is prepared",
    };
    Finding::error("rights", format!("{what} needs, and the role has not: {}; grant it", refused.join(", ")))
}
