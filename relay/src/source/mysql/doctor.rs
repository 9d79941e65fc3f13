//! What MariaDB or MySQL says about privileges, positions, open transactions, encryption and clocks: see [`crate::doctor`].

use std::time::{Duration, Instant};

use sqlx::{
    Executor, MySqlConnection, MySqlPool, Row,
    mysql::{MySqlDatabaseError, MySqlSslMode},
};

use super::reader::ACCESS_DENIED;
use crate::{
    doctor::{Report, clock, is_local},
    source::{At, SourceError},
};

/// What a relay does, tried without an effect: a statement is refused before it looks at a row, or finds none.
const TRIED: [(&str, &str); 8] = [
    ("SELECT on outbox", "SELECT seq FROM outbox LIMIT 0"),
    ("DELETE on outbox", "DELETE FROM outbox WHERE 1 = 0"),
    ("INSERT on relay_source", "INSERT INTO relay_source (source) SELECT '' FROM DUAL WHERE 1 = 0"),
    ("UPDATE on relay_source", "UPDATE relay_source SET epoch = epoch WHERE 1 = 0"),
    ("SELECT on relay_parked", "SELECT seq FROM relay_parked LIMIT 0"),
    ("UPDATE on relay_parked", "UPDATE relay_parked SET state = state WHERE 1 = 0"),
    ("DELETE on relay_parked", "DELETE FROM relay_parked WHERE 1 = 0"),
    ("SELECT on relay_released", "SELECT times FROM relay_released LIMIT 0"),
];

/// The same, where published rows are archived.
const ARCHIVES: [(&str, &str); 2] = [
    (
        "SELECT and INSERT on relay_archive",
        "INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, `type`, headers) \
         SELECT source, id, seq, created_at, destination, aggregatetype, `type`, headers FROM relay_archive WHERE 1 = 0",
    ),
    ("DELETE on relay_archive", "DELETE FROM relay_archive WHERE 1 = 0"),
];

/// What MariaDB and MySQL say to a role without a privilege on a table or a column.
const DENIED: [u16; 2] = [1142, 1143];

const POSITIONS: &str = "SELECT CAST(@@auto_increment_increment AS SIGNED)";

/// InnoDB tells when a transaction began in the zone of the server, whatever that of the session is.
const TRANSACTIONS: &str = "SELECT CAST(o.trx_mysql_thread_id AS SIGNED), coalesce(p.user, '?'), \
      CAST(TIMESTAMPDIFF(SECOND, o.trx_started, CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')) AS SIGNED) AS age \
    FROM information_schema.innodb_trx o LEFT JOIN information_schema.processlist p ON p.id = o.trx_mysql_thread_id \
    WHERE TIMESTAMPDIFF(SECOND, o.trx_started, CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')) > ? \
    ORDER BY o.trx_mysql_thread_id = 0, age DESC LIMIT 5";

const TIME: &str =
    "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000 AS SIGNED)";

/// Looks at everything of one database.
pub(in crate::source) async fn examine(
    name: &str,
    pool: &MySqlPool,
    archives: bool,
    old: Duration,
    report: &mut Report,
) -> Result<(), SourceError> {
    let at = At { name };
    let mut connection = at.bounded("connecting", pool.acquire()).await?;
    let db = &mut *connection;
    at.bounded("looking at privileges", privileges(db, archives, report)).await?;
    at.bounded("looking at positions", positions(db, report)).await?;
    at.bounded("looking at transactions", transactions(db, old, report)).await?;
    at.bounded("looking at the encryption", encryption(db, pool, report)).await?;
    let asked = Instant::now();
    let theirs = at.bounded("asking for the time", sqlx::query_scalar(TIME).fetch_one(db)).await?;
    clock::compare(theirs, asked, report);
    Ok(())
}

fn number(error: &sqlx::Error) -> Option<u16> {
    let answer = error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?;
    Some(answer.number())
}

async fn privileges(
    db: &mut MySqlConnection,
    archives: bool,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let mut missing = Vec::new();
    let archives: &[_] = if archives { &ARCHIVES } else { &[] };
    for (what, tried) in TRIED.iter().chain(archives).copied() {
        match db.execute(sqlx::raw_sql(tried)).await {
            Ok(_) => {}
            Err(error) if number(&error).is_some_and(|number| DENIED.contains(&number)) => missing.push(what),
            Err(error) => return Err(error),
        }
    }
    let user: String = sqlx::query_scalar("SELECT CURRENT_USER()").fetch_one(db).await?;
    if missing.is_empty() {
        report.ok("grants", format!("{user} may do what a relay does"));
    } else {
        let what = format!("{user} lacks {}", missing.join(", "));
        report.problem("grants", what, "`barid-relay grants print` has the SQL");
    }
    Ok(())
}

async fn positions(db: &mut MySqlConnection, report: &mut Report) -> Result<(), sqlx::Error> {
    let step: i64 = sqlx::query_scalar(POSITIONS).fetch_one(db).await?;
    if step == 1 {
        report.ok("sequence", "positions are handed out one by one");
    } else {
        let what = format!(
            "auto_increment_increment is {step}: several servers hand out positions, and rows of a key that are written on \
             different ones can change their order"
        );
        report.problem("sequence", what, "write to one server, and set auto_increment_increment = 1");
    }
    Ok(())
}

async fn transactions(
    db: &mut MySqlConnection,
    old: Duration,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let seconds = i64::try_from(old.as_secs()).unwrap_or(i64::MAX);
    let found = sqlx::query(TRANSACTIONS).bind(seconds).fetch_all(&mut *db).await;
    let found = match found {
        Ok(found) => found,
        Err(error) if number(&error) == Some(ACCESS_DENIED) => {
            report.warning(
                "snapshots",
                "without the privilege PROCESS open transactions cannot be seen, and every read passes over the rows that purge \
                 has not removed yet",
                "GRANT PROCESS ON *.* to the role",
            );
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if found.is_empty() {
        report.ok("snapshots", "no old transaction keeps deleted rows from being purged");
    }
    for row in found {
        let (thread, user, age): (i64, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let what = if thread == 0 {
            format!("a prepared transaction (XA RECOVER lists it) has been open for {age} s")
        } else {
            format!("a transaction of connection {thread} of {user} has been open for {age} s")
        };
        report.warning(
            "snapshots",
            what,
            "end it, and see what left it open; until then deleted rows are not purged",
        );
    }
    Ok(())
}

async fn encryption(
    db: &mut MySqlConnection,
    pool: &MySqlPool,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let options = pool.connect_options();
    let cipher = db.fetch_one(sqlx::raw_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'")).await?;
    let encrypted = !cipher.try_get::<String, _>(1)?.is_empty();
    match (encrypted, options.get_ssl_mode()) {
        (true, MySqlSslMode::VerifyIdentity) => {
            report.ok("tls", "encrypted, and the server's name is verified")
        }
        _ if is_local(options.get_host()) => report.ok("tls", "on this machine"),
        (true, mode) => report.warning(
            "tls",
            format!("encrypted, and with ssl-mode {mode:?} anybody can pretend to be the server"),
            "add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE to the url",
        ),
        (false, _) => report.warning(
            "tls",
            "not encrypted: others on the way can read messages and the password",
            "add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE to the url",
        ),
    }
    Ok(())
}
