//! A table of somebody else, seen as the outbox.
//!
//! Each session makes a temporary view `outbox` over the table, which comes first in every search path: what is read, deleted and
//! parked through it needs no other statements. Only putting parked rows back does, because a view takes no values for what it
//! computes. Into the texts go identifiers, which need no quotes and get them, and nothing else.
//!
//! Everything that is wrong with the table is found when it is opened, and reported at once.

use sqlx::{AssertSqlSafe, Executor, PgConnection, Row, postgres::PgRow};

use super::put_back::Home;
use crate::source::{
    At, SourceError,
    mapping::{Mapping, Named, Role},
};

#[cfg(test)]
mod tests;

/// A column as the catalogue has it.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// Without length or precision.
    kind: String,
    not_null: bool,
    /// A default, or an identity.
    filled: bool,
    /// By an expression: nobody else can write it.
    generated: bool,
    /// There is a unique index on it alone.
    unique: bool,
}

/// How a table is read, and how rows get back into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What reads it with the outbox's names.
    pub(super) rows: String,
    pub(super) home: Home,
}

/// Looks at the table.
///
/// # Errors
/// [`SourceError::Table`] with everything that is wrong with it.
pub(super) async fn plan(
    at: At<'_>,
    connection: &mut PgConnection,
    mapping: &Mapping,
) -> Result<Plan, SourceError> {
    let table = &mapping.table;
    // As text: behind a pooler, which is not ruled out yet, prepared statements fail for reasons that name nothing.
    let catalogue = AssertSqlSafe(format!(
        "SELECT attname::text, format_type(atttypid, NULL), attnotnull, atthasdef OR attidentity <> '', attgenerated <> '', \
         EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid AND indpred IS NULL \
           AND indnkeyatts = 1 AND indkey[0] = attnum) \
         FROM pg_attribute WHERE attrelid = to_regclass('\"{table}\"') AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ));
    let asked = async {
        let rows = connection.fetch_all(sqlx::raw_sql(catalogue)).await?;
        rows.iter().map(column).collect::<Result<Vec<_>, _>>()
    };
    let columns = at.bounded("looking at the columns of the table", asked).await?;
    made(mapping, &columns).map_err(|problems| SourceError::Table {
        source_name: at.name.to_owned(),
        table: table.to_string(),
        problems,
    })
}

/// From now on this session sees the table as `outbox`.
pub(super) async fn see_as_outbox(
    at: At<'_>,
    connection: &mut PgConnection,
    plan: &Plan,
) -> Result<(), SourceError> {
    let view = AssertSqlSafe(format!("CREATE TEMPORARY VIEW outbox AS {}", plan.rows));
    let view = connection.execute(sqlx::raw_sql(view));
    at.bounded("opening the table", view).await.map(drop)
}

fn column(row: &PgRow) -> Result<Column, sqlx::Error> {
    Ok(Column {
        name: row.try_get(0)?,
        kind: row.try_get(1)?,
        not_null: row.try_get(2)?,
        filled: row.try_get(3)?,
        generated: row.try_get(4)?,
        unique: row.try_get(5)?,
    })
}

/// A column of the view, and what is written into the table's when a row comes back; nothing where the table has none.
struct Read {
    expression: String,
    back: Option<String>,
}

fn made(mapping: &Mapping, columns: &[Column]) -> Result<Plan, Vec<String>> {
    let table = &mapping.table;
    if columns.is_empty() {
        return Err(vec![format!(
            "{}: there is no table {table} in the search path of the relay's role; create it, or correct the name",
            mapping.place
        )]);
    }
    let mut problems = Vec::new();
    let mut reads = Vec::new();
    for role in Role::ALL {
        match read(mapping, role, columns) {
            Ok(read) => reads.push((role, read)),
            Err(problem) => problems.push(problem),
        }
    }
    for extra in &mapping.extra {
        if found(columns, extra.column.as_str()).is_none() {
            problems.push(missing(extra, &mapping.table.to_string(), columns));
        }
    }
    problems.extend(columns.iter().filter(|column| is_lost(mapping, column)).map(|column| {
        format!(
            "{}: column {} is NOT NULL without a default and nobody maps it, so a parked message could not be put back; \
             add it to extra_columns, or give it a default",
            mapping.place, column.name
        )
    }));
    if problems.is_empty() { Ok(planned(mapping, reads, columns)) } else { Err(problems) }
}

/// The texts, once everything is known to be there.
fn planned(mapping: &Mapping, mut reads: Vec<(Role, Read)>, columns: &[Column]) -> Plan {
    let table = format!("\"{}\"", mapping.table);
    let extra: Vec<&str> = mapping.extra.iter().map(|extra| extra.column.as_str()).collect();
    if !extra.is_empty() {
        let pairs: Vec<String> = extra.iter().map(|name| format!("'{name}', \"{name}\"::text")).collect();
        let names: Vec<String> = extra.iter().map(|name| format!("'{name}'")).collect();
        if let Some((_, read)) = reads.iter_mut().find(|(role, _)| *role == Role::Headers) {
            read.expression =
                format!("{} || jsonb_strip_nulls(jsonb_build_object({}))", read.expression, pairs.join(", "));
            // What came from other columns goes back into them.
            if let Some(back) = &mut read.back {
                *back = back.replacen("headers", &format!("(headers - ARRAY[{}])", names.join(", ")), 1);
            }
        }
    }
    let shown: Vec<String> =
        reads.iter().map(|(role, read)| format!("{} AS {}", read.expression, role.name())).collect();
    let rows = format!("SELECT {} FROM {table}", shown.join(", "));

    let writable = |name: &str| found(columns, name).is_some_and(|column| !column.generated);
    let (mut into, mut values) = (Vec::new(), Vec::new());
    for (role, read) in reads.into_iter().filter(|(role, _)| *role != Role::Seq) {
        if let Some(back) = read.back.filter(|_| writable(mapping.name_of(role))) {
            into.push(format!("\"{}\"", mapping.name_of(role)));
            values.push(back);
        }
    }
    for name in extra.into_iter().filter(|name| writable(name)) {
        into.push(format!("\"{name}\""));
        values.push(typed(&table, name, &format!("headers ->> '{name}'")));
    }
    let (seq, id) = (mapping.name_of(Role::Seq), mapping.name_of(Role::Id));
    let home = Home {
        seq: format!("\"{seq}\""),
        id: format!("\"{id}\""),
        id_is_unique: found(columns, id).is_some_and(|column| column.unique),
        overriding: true,
        columns: into.join(", "),
        values: values.join(", "),
        table,
    };
    Plan { rows, home }
}

/// A text as a value of the column's own type, whatever that is.
fn typed(table: &str, column: &str, text: &str) -> String {
    format!("(jsonb_populate_record(NULL::{table}, jsonb_build_object('{column}', {text}))).\"{column}\"")
}

fn found<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| column.name == name)
}

fn missing(named: &Named, table: &str, columns: &[Column]) -> String {
    let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    format!(
        "{} names column {}, which table {table} has not; correct it (columns: {})",
        named.place,
        named.column,
        known.join(", ")
    )
}

/// Whether a value of this column would be lost with parking, and missed.
fn is_lost(mapping: &Mapping, column: &Column) -> bool {
    let mapped = Role::ALL.iter().any(|role| mapping.name_of(*role) == column.name);
    let extra = mapping.extra.iter().any(|extra| extra.column.as_str() == column.name);
    column.not_null && !column.filled && !column.generated && !mapped && !extra
}

/// How a role is read from the table, or what is wrong with its column.
fn read(mapping: &Mapping, role: Role, columns: &[Column]) -> Result<Read, String> {
    let (name, table) = (mapping.name_of(role), &mapping.table);
    let Some(column) = found(columns, name) else { return absent(mapping, role, columns) };
    let place = mapping.columns.get(&role).map_or(mapping.place.as_str(), |named| &named.place);
    let wrong = |needs: &str, remedy: &str| {
        let null = if column.not_null { " NOT NULL" } else { "" };
        Err(format!(
            "{place}: {} needs {needs}, and {table}.{name} is {}{null}; {remedy}",
            role.name(),
            column.kind
        ))
    };
    let quoted = format!("\"{name}\"");
    let as_it_is = |expression: String| Ok(Read { expression, back: Some(role.name().to_owned()) });
    match (role, column.kind.as_str()) {
        (Role::Seq, "bigint") if column.not_null && column.unique => as_it_is(quoted),
        (Role::Seq, _) => wrong(
            "a NOT NULL bigint with a unique index of its own",
            &format!(
                "ALTER TABLE {table} ALTER {name} TYPE bigint, ALTER {name} SET NOT NULL, ADD UNIQUE ({name})"
            ),
        ),
        (Role::Id, "uuid") if column.not_null => as_it_is(quoted),
        (Role::Id, _) => wrong("a NOT NULL uuid", "map another column with columns.id"),
        (Role::CreatedAt, "timestamp with time zone" | "timestamp without time zone") => {
            // Also for null. What is infinite has no age.
            as_it_is(format!("CASE WHEN isfinite({quoted}) THEN {quoted}::timestamptz ELSE now() END"))
        }
        (Role::CreatedAt, _) => wrong("a timestamp", "map another column with columns.created_at"),
        (Role::Payload, "bytea") => as_it_is(quoted),
        (Role::Payload, "text" | "character varying") => {
            let back = Some("convert_from(payload, 'UTF8')".to_owned());
            Ok(Read { expression: format!("convert_to({quoted}::text, 'UTF8')"), back })
        }
        (Role::Payload, kind @ ("json" | "jsonb")) => {
            let back = Some(format!("convert_from(payload, 'UTF8')::{kind}"));
            Ok(Read { expression: format!("convert_to({quoted}::text, 'UTF8')"), back })
        }
        (Role::Payload, _) => wrong("bytea, text, json or jsonb", "map another column with columns.payload"),
        (Role::Headers, kind @ ("json" | "jsonb")) => {
            let back = Some(format!("headers::{kind}"));
            Ok(Read { expression: format!("coalesce({quoted}::jsonb, '{{}}')"), back })
        }
        (Role::Headers, _) => wrong("json or jsonb", "map another column with columns.headers"),
        (Role::AggregateId | Role::TracingSpanContext, kind) => {
            Ok(Read { expression: format!("{quoted}::text"), back: Some(text_back(mapping, role, kind)) })
        }
        (_, kind) => {
            let back = Some(text_back(mapping, role, kind));
            Ok(Read { expression: format!("coalesce({quoted}::text, '')"), back })
        }
    }
}

fn text_back(mapping: &Mapping, role: Role, kind: &str) -> String {
    match kind {
        "text" | "character varying" => role.name().to_owned(),
        _ => typed(&format!("\"{}\"", mapping.table), mapping.name_of(role), role.name()),
    }
}

/// What stands for a column that the table has not.
fn absent(mapping: &Mapping, role: Role, columns: &[Column]) -> Result<Read, String> {
    let (name, table) = (mapping.name_of(role), mapping.table.to_string());
    if let Some(named) = mapping.columns.get(&role) {
        return Err(missing(named, &table, columns));
    }
    let expression = match role {
        Role::CreatedAt => "now()".to_owned(),
        Role::Destination => {
            let aggregate = mapping.name_of(Role::AggregateType);
            format!("'topic:' || coalesce(\"{aggregate}\"::text, '')")
        }
        Role::Headers => "'{}'::jsonb".to_owned(),
        Role::TracingSpanContext => "NULL::text".to_owned(),
        Role::Seq => {
            return Err(format!(
                "{}: table {table} has no column {name}, by which rows are kept in their order; ALTER TABLE {table} ADD COLUMN \
                 {name} bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE, or name another one with columns.seq",
                mapping.place
            ));
        }
        _ => {
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            return Err(format!(
                "{}: table {table} has no column {name}; say which one it is with columns.{} (columns: {})",
                mapping.place,
                role.name(),
                known.join(", ")
            ));
        }
    };
    Ok(Read { expression, back: None })
}
