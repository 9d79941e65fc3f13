//! Statements that join one of the two texts of a unit of work, so that they cost no round trip of their own.
//!
//! What is kept in the transaction of a message (sagas, replies, schedules) reads with the opening text and writes with the
//! closing one. A [`Statement`] is SQL that was written in the source, with values that become literals of hex, digits
//! or, on PostgreSQL, plain text (see `shared`); there is no way to put other text into it.

use bytes::Bytes;
use sqlx::{Arguments, AssertSqlSafe, Database, Encode, IntoArguments, Type, query::Query};
use uuid::Uuid;

use super::{backend::IdempotencyKey, idempotency::Mark, shared::Literals};
use crate::transport::OutgoingRow;

/// What the opening text of a unit of work carries besides the beginning of the transaction.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The idempotency record to insert first.
    pub key: Option<IdempotencyKey>,
    /// Recognises the message by its number instead of by a record of its own.
    pub(crate) mark: Option<Mark>,
    /// Queries whose rows the unit keeps, in the same order, for whoever asked. They see the transaction as the handlers will.
    pub(crate) reads: Vec<Statement>,
}

/// What the closing text of a unit of work carries besides the end of the transaction.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// Rows for the outbox: the last write before COMMIT.
    pub outbox: Vec<OutgoingRow>,
    /// Writes before the outbox. One that fails makes the whole unit roll back.
    pub(crate) statements: Vec<Statement>,
}

impl Writes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty() && self.statements.is_empty()
    }
}

/// One SQL statement, without its closing semicolon.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Sql(&'static str),
    Id(Uuid),
    Int(i64),
    Text(String),
    Json(String),
    Bytes(Bytes),
    Null,
}

impl Statement {
    /// A statement that begins with `sql`.
    pub(crate) fn new(sql: &'static str) -> Self {
        Self(vec![Part::Sql(sql)])
    }

    fn with(mut self, part: Part) -> Self {
        self.0.push(part);
        self
    }

    /// Goes on with `sql`.
    pub(crate) fn sql(self, sql: &'static str) -> Self {
        self.with(Part::Sql(sql))
    }

    /// Goes on with another statement, after a semicolon.
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.0.push(Part::Sql(";"));
        self.0.extend(next.0);
        self
    }

    pub(crate) fn id(self, id: Uuid) -> Self {
        self.with(Part::Id(id))
    }

    pub(crate) fn int(self, int: i64) -> Self {
        self.with(Part::Int(int))
    }

    pub(crate) fn text(self, text: impl Into<String>) -> Self {
        self.with(Part::Text(text.into()))
    }

    /// Text or NULL.
    pub(crate) fn opt_text(self, text: Option<&str>) -> Self {
        self.with(text.map_or(Part::Null, |text| Part::Text(text.to_owned())))
    }

    pub(crate) fn json(self, json: impl Into<String>) -> Self {
        self.with(Part::Json(json.into()))
    }

    /// Bytes or NULL.
    pub(crate) fn bytes(self, bytes: impl Into<Option<Bytes>>) -> Self {
        self.with(bytes.into().map_or(Part::Null, Part::Bytes))
    }

    /// The statement with a placeholder for each value: what is too large for a text, or has a round trip of its own. `mark` writes
    /// the placeholder of a number, `json` follows that of a JSON document.
    pub(crate) fn bound<DB: Database>(
        &self,
        mark: impl Fn(usize) -> String,
        json: &str,
    ) -> Result<Query<'static, DB, DB::Arguments>, sqlx::Error>
    where
        DB::Arguments: IntoArguments<DB>,
        Uuid: Encode<'static, DB> + Type<DB>,
        i64: Encode<'static, DB> + Type<DB>,
        String: Encode<'static, DB> + Type<DB>,
        Vec<u8>: Encode<'static, DB> + Type<DB>,
    {
        let (mut sql, mut values) = (String::new(), DB::Arguments::default());
        for part in &self.0 {
            let added = match part {
                Part::Sql(text) => {
                    sql.push_str(text);
                    continue;
                }
                // Without a value it would have a type of its own, which need not be the column's.
                Part::Null => {
                    sql.push_str("NULL");
                    continue;
                }
                Part::Id(id) => values.add(*id),
                Part::Int(int) => values.add(*int),
                Part::Text(text) | Part::Json(text) => values.add(text.clone()),
                Part::Bytes(bytes) => values.add(bytes.to_vec()),
            };
            added.map_err(sqlx::Error::Encode)?;
            sql.push_str(&mark(values.len()));
            if matches!(part, Part::Json(_)) {
                sql.push_str(json);
            }
        }
        Ok(sqlx::query_with(AssertSqlSafe(sql), values))
    }

    /// Appends the statement as `L` writes values.
    pub(crate) fn render<L: Literals>(&self, out: &mut String) {
        for part in &self.0 {
            match part {
                Part::Sql(sql) => out.push_str(sql),
                Part::Id(id) => L::id(out, *id),
                Part::Int(int) => out.push_str(&int.to_string()),
                Part::Text(text) => L::text(out, text),
                Part::Json(json) => L::json(out, json),
                Part::Bytes(bytes) => L::bytes(out, bytes),
                Part::Null => out.push_str("NULL"),
            }
        }
    }
}

/// Appends statements, each after a semicolon.
pub(crate) fn push_all<L: Literals>(out: &mut String, statements: &[Statement]) {
    for statement in statements {
        out.push(';');
        statement.render::<L>(out);
    }
}
