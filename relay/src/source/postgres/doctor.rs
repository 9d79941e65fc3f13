//! What PostgreSQL says about roles, sequences, vacuum, held snapshots, encryption and clocks: see [`crate::doctor`].

use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool, postgres::PgSslMode};

use crate::{
    doctor::{Report, clock, is_local},
    source::{
        At, SourceError,
        mapping::{Mapping, Role},
        whole_millis,
    },
};

/// Privileges on a table: $1 = what is the outbox.
const GRANTS: &str = "SELECT what, granted FROM (VALUES \
    ('SELECT on outbox', has_table_privilege($1, 'SELECT')), \
    ('DELETE on outbox', has_table_privilege($1, 'DELETE')), \
    ('INSERT on outbox, to put back what was parked', has_any_column_privilege($1, 'INSERT')), \
    ('SELECT on relay_source', has_table_privilege('relay_source', 'SELECT')), \
    ('INSERT on relay_source', has_table_privilege('relay_source', 'INSERT')), \
    ('UPDATE on relay_source', has_table_privilege('relay_source', 'UPDATE')), \
    ('SELECT on relay_parked', has_table_privilege('relay_parked', 'SELECT')), \
    ('INSERT on relay_parked', has_table_privilege('relay_parked', 'INSERT')), \
    ('UPDATE on relay_parked', has_table_privilege('relay_parked', 'UPDATE')), \
    ('DELETE on relay_parked', has_table_privilege('relay_parked', 'DELETE')), \
    ('SELECT on relay_released', has_table_privilege('relay_released', 'SELECT'))) g (what, granted)";

/// The same, where published rows are archived.
const ARCHIVES: &str = "SELECT what, granted FROM (VALUES \
    ('SELECT on relay_archive', has_table_privilege('relay_archive', 'SELECT')), \
    ('INSERT on relay_archive', has_table_privilege('relay_archive', 'INSERT')), \
    ('DELETE on relay_archive', has_table_privilege('relay_archive', 'DELETE'))) g (what, granted)";

const ADOPTS: &str = "SELECT has_column_privilege('outbox', 'xid', 'UPDATE')";

const ROLE: &str = "SELECT current_user::text, rolsuper, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), \
    has_column_privilege($1, $2, 'UPDATE') FROM pg_roles WHERE rolname = current_user";

const SEQUENCE: &str = "SELECT seqrelid::regclass::text, seqcache FROM pg_sequence \
    WHERE seqrelid = pg_get_serial_sequence(quote_ident($1), $2)::regclass";

const VACUUM: &str = "SELECT current_setting('autovacuum'), coalesce(reloptions, '{}') FROM pg_class \
    WHERE oid = quote_ident($1)::regclass";

/// What the migration sets, and what each is for.
const VACUUM_OPTIONS: [(&str, &str); 2] = [
    (
        "autovacuum_vacuum_scale_factor=0",
        "a table that is nearly empty is vacuumed too often, a backlog too late",
    ),
    ("vacuum_truncate=off", "truncating takes a lock that stops every writer"),
];

/// $1 = so many milliseconds.
const OLD_TRANSACTIONS: &str = "SELECT format('process %s of %s (%s, %s)', pid, coalesce(usename, '?'), \
      coalesce(nullif(application_name, ''), 'no application name'), coalesce(state, backend_type)), \
      extract(epoch FROM clock_timestamp() - xact_start)::bigint FROM pg_stat_activity \
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid() \
      AND (datname = current_database() OR backend_type = 'walsender') \
      AND clock_timestamp() - xact_start > $1 * interval '1 millisecond' ORDER BY xact_start LIMIT 5";

const OLD_PREPARED: &str = "SELECT format('%s of %s', gid, owner), extract(epoch FROM clock_timestamp() - prepared)::bigint \
    FROM pg_prepared_xacts WHERE database = current_database() \
      AND clock_timestamp() - prepared > $1 * interval '1 millisecond' ORDER BY prepared LIMIT 5";

const IDLE_SLOTS: &str = "SELECT slot_name::text FROM pg_replication_slots WHERE NOT active \
    AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL OR restart_lsn IS NOT NULL) ORDER BY 1 LIMIT 5";

/// As text in milliseconds; the server's clock.
const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const TLS: &str = "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";

/// Looks at everything of one database.
pub(in crate::source) async fn examine(
    name: &str,
    pool: &PgPool,
    table: Option<&Mapping>,
    archives: bool,
    old: Duration,
    report: &mut Report,
) -> Result<(), SourceError> {
    let at = At { name };
    let outbox = table.map_or("outbox", |mapping| mapping.table.as_str());
    let mut connection = at.bounded("connecting", pool.acquire()).await?;
    let db = &mut *connection;
    if let Some(mapping) = table {
        match super::foreign::plan(at, db, mapping).await {
            Err(SourceError::Table { problems, .. }) => {
                let remedy = "correct the table, or what the configuration says about it";
                problems.into_iter().for_each(|problem| report.problem("columns", problem, remedy));
                return Ok(());
            }
            plan => drop(plan?),
        }
        report.ok("columns", format!("table {outbox} has what an outbox needs"));
    }
    at.bounded("looking at grants", grants(db, outbox, table, archives, report)).await?;
    at.bounded("looking at the sequence", sequence(db, outbox, table, report)).await?;
    at.bounded("looking at autovacuum", vacuum(db, outbox, report)).await?;
    at.bounded("looking at transactions", transactions(db, whole_millis(old), report)).await?;
    at.bounded("looking at the encryption", encryption(db, pool, report)).await?;
    let asked = Instant::now();
    let theirs = at.bounded("asking for the time", sqlx::query_scalar(CLOCK).fetch_one(db)).await?;
    clock::compare(theirs, asked, report);
    Ok(())
}

async fn grants(
    db: &mut PgConnection,
    outbox: &str,
    table: Option<&Mapping>,
    archives: bool,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let mut missing: Vec<String> = Vec::new();
    let mut all: Vec<(String, bool)> = sqlx::query_as(GRANTS).bind(outbox).fetch_all(&mut *db).await?;
    if archives {
        all.extend(sqlx::query_as::<_, (String, bool)>(ARCHIVES).fetch_all(&mut *db).await?);
    }
    missing.extend(all.into_iter().filter(|(_, granted)| !granted).map(|(what, _)| what));
    if table.is_none() && !sqlx::query_scalar::<_, bool>(ADOPTS).fetch_one(&mut *db).await? {
        missing.push("UPDATE (xid) on outbox".to_owned());
    }
    let role: (String, bool, bool, bool) =
        sqlx::query_as(ROLE).bind(outbox).bind(name_of(table, Role::Payload)).fetch_one(&mut *db).await?;
    let (role, superuser, sees_all, forges) = role;
    if missing.is_empty() {
        report.ok("grants", format!("role {role} may do what a relay does"));
    } else {
        let what = format!("role {role} lacks {}", missing.join(", "));
        report.problem(
            "grants",
            what,
            "`barid-relay grants print` has the SQL; run it as the owner of the tables",
        );
    }
    let least = "use a role of its own: `barid-relay grants print` has the SQL";
    if superuser {
        report.warning("role", format!("role {role} is a superuser"), least);
    } else if forges {
        report.warning("role", format!("role {role} may change payloads that others wrote"), least);
    } else {
        report.ok("role", format!("role {role} cannot change what others wrote"));
    }
    if !sees_all {
        let what = format!(
            "role {role} cannot see the transactions of others, which keep deleted rows from being cleaned up"
        );
        report.warning("statistics", what, format!("GRANT pg_read_all_stats TO \"{role}\""));
    }
    Ok(())
}

fn name_of(table: Option<&Mapping>, role: Role) -> &str {
    table.map_or(role.name(), |mapping| mapping.name_of(role))
}

async fn sequence(
    db: &mut PgConnection,
    outbox: &str,
    table: Option<&Mapping>,
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let seq = name_of(table, Role::Seq);
    let asked = sqlx::query_as(SEQUENCE).bind(outbox).bind(seq).fetch_optional(db);
    let sequence: Option<(String, i64)> = asked.await?;
    match sequence {
        Some((_, 1)) => report.ok("sequence", "positions are handed out one by one"),
        Some((sequence, cache)) => report.problem(
            "sequence",
            format!("{sequence} has CACHE {cache}: sessions take positions ahead, and rows of a key can change their order"),
            format!("ALTER SEQUENCE {sequence} CACHE 1, then have every writer connect again"),
        ),
        None => report.problem(
            "sequence",
            format!("{outbox}.{seq} has no sequence of its own, so nothing says in which order positions come"),
            "make it an identity column or a bigserial",
        ),
    }
    Ok(())
}

async fn vacuum(db: &mut PgConnection, outbox: &str, report: &mut Report) -> Result<(), sqlx::Error> {
    let (on, options): (String, Vec<String>) = sqlx::query_as(VACUUM).bind(outbox).fetch_one(db).await?;
    let off = ["autovacuum_enabled=false", "autovacuum_enabled=off"];
    let table_off = options.iter().any(|option| off.contains(&option.as_str()));
    if on != "on" || table_off {
        let (whose, remedy) = if table_off {
            (format!("of {outbox}"), format!("ALTER TABLE {outbox} RESET (autovacuum_enabled)"))
        } else {
            ("of the server".to_owned(), "set autovacuum = on in postgresql.conf, and reload it".to_owned())
        };
        let what = format!("the autovacuum {whose} is off: deleted rows stay, and every read gets slower");
        report.problem("autovacuum", what, remedy);
        return Ok(());
    }
    let missing: Vec<_> =
        VACUUM_OPTIONS.iter().filter(|(option, _)| !options.iter().any(|set| set == option)).collect();
    for (option, why) in &missing {
        report.warning(
            "autovacuum",
            format!("{outbox} has not {option}: {why}"),
            format!("ALTER TABLE {outbox} SET ({option})"),
        );
    }
    if missing.is_empty() {
        report.ok("autovacuum", "on, and by count");
    }
    Ok(())
}

async fn transactions(db: &mut PgConnection, old_ms: i64, report: &mut Report) -> Result<(), sqlx::Error> {
    let mut found = false;
    let remedy = "end it, and see what left it open; until then deleted rows cannot be cleaned up";
    for (query, what) in [(OLD_TRANSACTIONS, "a transaction"), (OLD_PREPARED, "prepared transaction")] {
        let old: Vec<(String, i64)> = sqlx::query_as(query).bind(old_ms).fetch_all(&mut *db).await?;
        for (who, seconds) in old {
            found = true;
            let what =
                if query == OLD_PREPARED { format!("{what} {who}") } else { format!("{what} of {who}") };
            report.warning("snapshots", format!("{what} has been open for {seconds} s"), remedy);
        }
    }
    for slot in sqlx::query_scalar::<_, String>(IDLE_SLOTS).fetch_all(db).await? {
        found = true;
        let what =
            format!("replication slot {slot} is used by nobody: it keeps the log, and may keep deleted rows");
        report.warning(
            "snapshots",
            what,
            format!("SELECT pg_drop_replication_slot('{slot}') if nobody needs it"),
        );
    }
    if !found {
        report.ok("snapshots", "nobody that can be seen keeps deleted rows from being cleaned up");
    }
    Ok(())
}

async fn encryption(db: &mut PgConnection, pool: &PgPool, report: &mut Report) -> Result<(), sqlx::Error> {
    let options = pool.connect_options();
    let encrypted: bool = sqlx::query_scalar(TLS).fetch_one(db).await?;
    let local = options.get_socket().is_some() || is_local(options.get_host());
    match (encrypted, options.get_ssl_mode()) {
        (true, PgSslMode::VerifyFull) => report.ok("tls", "encrypted, and the server's name is verified"),
        _ if local => report.ok("tls", "on this machine"),
        (true, mode) => report.warning(
            "tls",
            format!("encrypted, and with sslmode {mode:?} anybody can pretend to be the server"),
            "add ?sslmode=verify-full&sslrootcert=FILE to the url",
        ),
        (false, _) => report.warning(
            "tls",
            "not encrypted: others on the way can read messages and the password",
            "add ?sslmode=verify-full&sslrootcert=FILE to the url",
        ),
    }
    Ok(())
}
