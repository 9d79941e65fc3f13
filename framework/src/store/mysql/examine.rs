//! What matters to distributed transactions on MariaDB and MySQL.

use sqlx::{AssertSqlSafe, Executor, MySqlConnection, MySqlPool, Row, raw_sql};

use super::{
    branch::{FORMAT, is_too_old},
    unit::number,
};
use crate::{
    distributed::finding::{Finding, Part},
    store::distributed::examine::{attempts, rights},
};

/// The role may not do that to the table, or to the column.
const REFUSED: [u16; 2] = [1142, 1143];

pub(in crate::store) async fn examine(pool: &MySqlPool, part: Part) -> Result<Vec<Finding>, sqlx::Error> {
    let mut session = pool.acquire().await?;
    let version = variable(&mut session, "version").await?.unwrap_or_default();
    let mut all = vec![server(&version, part), granted(&mut session, part).await?];
    all.push(durable(&mut session).await?);
    if part == Part::Branch {
        let galera = variable(&mut session, "wsrep_on").await?;
        all.push(if galera.as_deref() == Some("ON") {
            let text = "a node of a Galera cluster, which does not replicate prepared transactions: use a database outside of it";
            Finding::error("galera", text)
        } else {
            Finding::ok("galera", "no Galera cluster")
        });
        all.push(listed(&mut session).await?);
    }
    Ok(all)
}

/// A setting of the server, if it has it. The name is one of ours.
async fn variable(session: &mut MySqlConnection, name: &'static str) -> Result<Option<String>, sqlx::Error> {
    let text = raw_sql(AssertSqlSafe(format!("SHOW GLOBAL VARIABLES LIKE '{name}'")));
    session.fetch_optional(text).await?.map(|row| row.try_get(1)).transpose()
}

fn server(version: &str, part: Part) -> Finding {
    if part == Part::Branch && is_too_old(version) {
        let text = format!(
            "MariaDB {version} rolls prepared transactions back when their session ends: it has to be 10.5 or newer"
        );
        return Finding::error("server", text);
    }
    let kind = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    Finding::ok("server", format!("{kind} {version}"))
}

async fn granted(session: &mut MySqlConnection, part: Part) -> Result<Finding, sqlx::Error> {
    let mut refused = Vec::new();
    for (text, needed) in attempts(part) {
        match session.execute(raw_sql(AssertSqlSafe(text))).await {
            Ok(_) => {}
            Err(error) if number(&error).is_some_and(|code| REFUSED.contains(&code)) => refused.push(needed),
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rights(&refused, part))
}

/// What is prepared and what is decided is in InnoDB's log, and in the binary log where there is one.
async fn durable(session: &mut MySqlConnection) -> Result<Finding, sqlx::Error> {
    let flush = variable(session, "innodb_flush_log_at_trx_commit").await?.unwrap_or_default();
    let (binary, sync) = (variable(session, "log_bin").await?, variable(session, "sync_binlog").await?);
    Ok(if !matches!(&*flush, "1" | "3") {
        let text = format!(
            "innodb_flush_log_at_trx_commit is {flush}: a crash of the machine loses what was prepared and decided; set it to 1"
        );
        Finding::error("durability", text)
    } else if binary.as_deref() == Some("ON") && sync.as_deref() != Some("1") {
        let text = "sync_binlog is not 1: after a crash of the machine replicas may lack what was committed; set it to 1";
        Finding::warning("durability", text)
    } else {
        Finding::ok("durability", "innodb_flush_log_at_trx_commit flushes at each commit")
    })
}

/// Asking is the test: MySQL wants the right XA_RECOVER_ADMIN for it.
async fn listed(session: &mut MySqlConnection) -> Result<Finding, sqlx::Error> {
    match session.fetch_all(raw_sql("XA RECOVER")).await {
        Ok(rows) => {
            let ours =
                rows.iter().filter(|row| row.try_get_unchecked::<i64, _>(0).ok() == Some(FORMAT)).count();
            Ok(Finding::ok(
                "recover",
                format!("{} prepared transactions, {ours} of them Barid's", rows.len()),
            ))
        }
        Err(sqlx::Error::Database(error)) => {
            Ok(Finding::error("recover", format!("{error}: grant XA_RECOVER_ADMIN to the role of recovery")))
        }
        Err(error) => Err(error),
    }
}
