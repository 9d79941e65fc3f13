//! What matters to distributed transactions on PostgreSQL.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Row, postgres::PgRow, raw_sql};

use crate::{
    distributed::finding::{Finding, Part},
    store::distributed::examine::{attempts, rights},
};

/// A share of the slots in hundredths from which on somebody should know.
const SLOTS_CROWDED: i64 = 80;

/// Seconds after which a prepared transaction is no longer in flight: it holds its locks and keeps VACUUM from what came after it.
const PREPARED_LONG_S: i64 = 3_600;

/// Triggers that notify: PREPARE TRANSACTION refuses a transaction that did.
const NOTIFIES: &str = "SELECT coalesce(string_agg(DISTINCT t.tgrelid::regclass::text||'.'||t.tgname,', '),'') FROM pg_trigger t \
                        JOIN pg_proc p ON p.oid=t.tgfoid WHERE NOT t.tgisinternal AND p.prosrc~*'\\mpg_notify\\M|\\mnotify\\M'";

pub(in crate::store) async fn examine(pool: &PgPool, part: Part) -> Result<Vec<Finding>, sqlx::Error> {
    let mut session = pool.acquire().await?;
    let mut all = vec![server(
        one(&mut session, "SELECT pg_is_in_recovery(),current_setting('server_version')").await?,
    )?];
    all.push(granted(&mut session, part).await?);
    all.push(durable(&mut session, part).await?);
    if part == Part::Branch {
        all.extend(prepared(&mut session).await?);
        let triggers: String = one(&mut session, NOTIFIES).await?.try_get(0)?;
        if !triggers.is_empty() {
            let text = format!(
                "{triggers}: a transaction that notifies cannot be prepared; notify after the commit instead"
            );
            all.push(Finding::warning("notify", text));
        }
    }
    Ok(all)
}

async fn one(session: &mut PgConnection, text: &'static str) -> Result<PgRow, sqlx::Error> {
    session.fetch_one(raw_sql(text)).await
}

fn server(row: PgRow) -> Result<Finding, sqlx::Error> {
    let (standby, version): (bool, String) = (row.try_get(0)?, row.try_get(1)?);
    Ok(if standby {
        Finding::error("server", format!("PostgreSQL {version} is a standby: connect to the primary"))
    } else {
        Finding::ok("server", format!("PostgreSQL {version}"))
    })
}

async fn granted(session: &mut PgConnection, part: Part) -> Result<Finding, sqlx::Error> {
    let mut refused = Vec::new();
    for (text, needed) in attempts(part) {
        match session.execute(raw_sql(AssertSqlSafe(text))).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                refused.push(needed)
            }
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rights(&refused, part))
}

/// A decision must survive what the server survives. What is prepared always does, whatever `synchronous_commit` says.
async fn durable(session: &mut PgConnection, part: Part) -> Result<Finding, sqlx::Error> {
    let row = one(
        session,
        "SELECT current_setting('fsync'),current_setting('synchronous_commit'),current_setting('synchronous_standby_names'),\
         (SELECT count(*)FROM pg_stat_replication)",
    )
    .await?;
    let (fsync, commit): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let (names, standbys): (String, i64) = (row.try_get(2)?, row.try_get(3)?);
    Ok(if fsync == "off" {
        Finding::error(
            "durability",
            "fsync is off: a crash of the machine loses what was prepared and decided; turn it on",
        )
    } else if part == Part::Home && commit == "off" {
        let text = "synchronous_commit is off for this role: a crash of the server can lose a decision that branches have followed; \
                    turn it on";
        Finding::error("durability", text)
    } else if part == Part::Home && standbys > 0 && names.is_empty() {
        let text = format!(
            "{standbys} standbys, none of them synchronous: a fail-over can lose a decision that branches have followed; set \
             synchronous_standby_names"
        );
        Finding::warning("durability", text)
    } else {
        Finding::ok("durability", format!("synchronous_commit is {commit}"))
    })
}

/// Slots, who owns what is prepared, and for how long it has been.
async fn prepared(session: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let row = one(
        session,
        "SELECT current_setting('max_prepared_transactions')::bigint,(SELECT count(*)FROM pg_prepared_xacts),\
         (SELECT coalesce(string_agg(DISTINCT owner::text,', '),'')FROM pg_prepared_xacts WHERE database=current_database()\
          AND starts_with(gid,'barid:')AND owner<>current_user AND NOT(SELECT rolsuper FROM pg_roles WHERE rolname=current_user)),\
         current_user::text,(SELECT coalesce(extract(epoch FROM max(now()-prepared)),0)::bigint FROM pg_prepared_xacts)",
    )
    .await?;
    let (slots, used): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (owners, role, oldest): (String, String, i64) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let in_use = format!("{used} of {slots} prepared transactions in use");
    let slots = match slots {
        0 => Finding::error("slots", super::branch::DISABLED),
        slots if used >= slots => {
            Finding::error("slots", format!("all {slots} {}", super::branch::EXHAUSTED))
        }
        slots if used * 100 >= slots * SLOTS_CROWDED => Finding::warning(
            "slots",
            format!("{in_use}: raise max_prepared_transactions and restart the server"),
        ),
        _ => Finding::ok("slots", in_use),
    };
    let role = if owners.is_empty() {
        Finding::ok("role", format!("{role} may end what is prepared here"))
    } else {
        let text =
            format!("what {owners} prepared here {role} may not end: use the same role in every process");
        Finding::error("role", text)
    };
    let age = if oldest >= PREPARED_LONG_S {
        let text = format!(
            "a transaction has been prepared for {oldest} s: it holds its locks and keeps VACUUM from what came after it; see \
             pg_prepared_xacts"
        );
        Finding::warning("age", text)
    } else {
        Finding::ok("age", format!("the oldest has been prepared for {oldest} s"))
    };
    Ok(vec![slots, role, age])
}

/// In a transaction pool a session has no backend of its own: while another one holds a backend in a transaction, the first is
/// somewhere else or the other has what the first one set.
pub(in crate::store) async fn pooler(pool: &PgPool) -> Result<Finding, sqlx::Error> {
    let session = &mut *pool.acquire().await?;
    let mark = uuid::Uuid::now_v7().to_string();
    // A UUID and nothing else goes into the text.
    let marking = format!("SELECT pg_backend_pid(),set_config('barid.session','{mark}',false)");
    let first: i32 = session.fetch_one(raw_sql(AssertSqlSafe(marking))).await?.try_get(0)?;
    let mut other = PgConnection::connect_with(&pool.connect_options()).await?;
    other.execute(raw_sql("BEGIN")).await?;
    let row =
        one(&mut other, "SELECT pg_backend_pid(),coalesce(current_setting('barid.session',true),'')").await?;
    let (second, found): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let still: i32 = one(session, "SELECT pg_backend_pid()").await?.try_get(0)?;
    other.execute(raw_sql("ROLLBACK")).await?;
    other.close().await?;
    Ok(if first == second || found == mark || still != first {
        let text = "a pooler in transaction mode sits between: statements of one session end in others; connect to the database itself \
                    or through a session pool";
        Finding::error("pooler", text)
    } else {
        Finding::ok("pooler", "every session has a backend of its own")
    })
}
