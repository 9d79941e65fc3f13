//! The partitions of `idempotency` on PostgreSQL: one a day, made ahead, and taken away as a whole.
//!
//! A table without partitions is left alone. A partition holds the ids of UUIDv7 of one day; other versions lie outside of
//! the days, in partitions of their own that the retention walks through. Everything here is short: it gives up when it
//! would make units of work wait for more than a moment, and is tried again.

use chrono::{DateTime, Days, NaiveDate};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, error::DatabaseError, raw_sql};
use uuid::Uuid;

use crate::{
    limits,
    store::{
        idempotency::{IdempotencyRows, Partitions},
        shared::Literals,
    },
};

use super::text::Text;

const PREFIX: &str = "idempotency_";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The partitioned table, if it is one.
const PARENT: &str = "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid=c.relnamespace \
                      WHERE c.oid=to_regclass('idempotency') AND c.relkind='p'";
const CHILDREN: &str = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid=i.inhrelid WHERE i.inhparent=to_regclass('idempotency')";

pub(super) async fn look_after(
    connection: &mut PgConnection,
    keep_ms: i64,
) -> Result<Partitions, sqlx::Error> {
    let mut done = Partitions::default();
    let schema: Option<String> = sqlx::query_scalar(PARENT).fetch_optional(&mut *connection).await?;
    let Some(schema) = schema else { return Ok(done) };
    let children: Vec<String> = sqlx::query_scalar(CHILDREN).fetch_all(&mut *connection).await?;
    let now = sqlx::Postgres::now_ms(connection).await?;
    let Some(today) = DateTime::from_timestamp_millis(now).map(|now| now.date_naive()) else {
        return Ok(done);
    };
    for ahead in 0..=limits::PARTITION_DAYS_AHEAD {
        let Some(day) = today.checked_add_days(Days::new(ahead.into())) else { break };
        let name = name_of(day);
        if children.contains(&name) {
            continue;
        }
        match make(connection, &schema, day).await {
            Ok(()) => done.made.push(name),
            // Rows of that day lie in the default partition already, and are removed from there.
            Err(error) if code(&error).as_deref() == Some("23514") => {}
            Err(error) => done.problems.push(problem("making", &name, error)?),
        }
    }
    for name in children {
        let Some(day) = day_of(&name) else { continue };
        if start_of(day) + DAY_MS > now - keep_ms {
            continue;
        }
        match take_away(connection, &schema, day).await {
            Ok(()) => done.dropped.push(name),
            Err(error) => done.problems.push(problem("dropping", &name, error)?),
        }
    }
    Ok(done)
}

/// ATTACH and not `PARTITION OF`: it does not wait for the units of work that use the other partitions.
async fn make(connection: &mut PgConnection, schema: &str, day: NaiveDate) -> Result<(), sqlx::Error> {
    let (name, from) = (name_of(day), start_of(day));
    let mut text = format!(
        "CREATE TABLE IF NOT EXISTS {name} (LIKE idempotency INCLUDING ALL);\
         ALTER TABLE idempotency ATTACH PARTITION {name} FOR VALUES FROM ("
    );
    Text::id(&mut text, first_id(from));
    text.push_str(") TO (");
    Text::id(&mut text, first_id(from + DAY_MS));
    text.push(')');
    shortly(connection, schema, text).await
}

/// Emptied first, which nobody waits for and frees the disk; the drop needs a moment without any unit of work.
async fn take_away(connection: &mut PgConnection, schema: &str, day: NaiveDate) -> Result<(), sqlx::Error> {
    let name = name_of(day);
    shortly(connection, schema, format!("TRUNCATE ONLY {name}")).await?;
    shortly(connection, schema, format!("DROP TABLE {name}")).await
}

/// One transaction in the schema of the table that gives up soon when others hold a lock. Of several instances one is at it.
async fn shortly(connection: &mut PgConnection, schema: &str, text: String) -> Result<(), sqlx::Error> {
    let mut transaction = Connection::begin(connection).await?;
    sqlx::query("SELECT set_config('search_path',quote_ident($1),true),set_config('lock_timeout',$2,true)")
        .bind(schema)
        .bind(limits::PARTITION_LOCK_WAIT.as_millis().to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtext('barid partitions of idempotency'))").await?;
    // Names made of digits, and UUIDs.
    transaction.execute(raw_sql(AssertSqlSafe(text))).await?;
    transaction.commit().await
}

/// What to say about a step that is tried again. An error of the connection is nobody's fault here.
fn problem(doing: &str, name: &str, error: sqlx::Error) -> Result<String, sqlx::Error> {
    match code(&error).as_deref() {
        // insufficient_privilege
        Some("42501") => Ok(format!(
            "{doing} partition {name} is not allowed to this role: rows go to the default partition and are removed from there \
             in batches. Let the role own the table idempotency, or make partitions by other means"
        )),
        // Units of work held a lock for too long, or another instance was quicker.
        Some(_) => Ok(format!("{doing} partition {name}: {error}")),
        None => Err(error),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(Into::into)
}

fn name_of(day: NaiveDate) -> String {
    format!("{PREFIX}{}", day.format("%Y%m%d"))
}

fn day_of(name: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(name.strip_prefix(PREFIX)?, "%Y%m%d").ok().filter(|day| name_of(*day) == name)
}

fn start_of(day: NaiveDate) -> i64 {
    day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis()
}

/// The least UUID that begins with this time.
fn first_id(ms: i64) -> Uuid {
    crate::idempotency::first_id(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day_and_nothing_else_is_one() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
        assert_eq!(name_of(day), "idempotency_20261121");
        assert_eq!(day_of("idempotency_20261121"), Some(day));
        for other in ["idempotency_default", "idempotency_2026112", "idempotency_20261340", "orders"] {
            assert_eq!(day_of(other), None, "{other}");
        }
        assert_eq!(first_id(start_of(day)).to_string(), "01a1fb67-1800-0000-0000-000000000000");
    }
}
