//! From the columns of a row to what the lanes work with: the same for all databases.

use std::time::Duration;

use barid::{Destination, Headers, transport::OutgoingRow};
use bytes::Bytes;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use sqlx::{ColumnIndex, Decode, Row, Type};
use uuid::Uuid;

use super::ReadRow;
use crate::{format::trace, lane::RowId};

/// The columns of the outbox as a driver delivers them.
#[derive(Debug)]
pub struct Columns {
    /// `seq`
    pub seq: i64,
    /// `id`
    pub id: Uuid,
    /// `destination`
    pub destination: String,
    /// `aggregatetype`
    pub aggregatetype: String,
    /// `aggregateid`
    pub aggregateid: Option<String>,
    /// `type`
    pub name: String,
    /// `payload`
    pub payload: Option<Vec<u8>>,
    /// `headers`, as JSON text
    pub headers: String,
    /// `tracingspancontext`
    pub tracingspancontext: Option<String>,
    /// Microseconds since `created_at`, by the database's clock.
    pub age_us: Option<i64>,
}

impl Columns {
    /// Takes them from a row, in this order, the first of which is at `from`.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    pub(super) fn of<R: Row>(row: &R, from: usize) -> Result<Self, sqlx::Error>
    where
        usize: ColumnIndex<R>,
        for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
        for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    {
        let seq = get(row, from, "seq", None)?;
        let of = Some(seq);
        Ok(Self {
            seq,
            id: get(row, from + 1, "id", of)?,
            destination: get(row, from + 2, "destination", of)?,
            aggregatetype: get(row, from + 3, "aggregatetype", of)?,
            aggregateid: get(row, from + 4, "aggregateid", of)?,
            name: get(row, from + 5, "type", of)?,
            payload: get(row, from + 6, "payload", of)?,
            headers: get(row, from + 7, "headers", of)?,
            tracingspancontext: get(row, from + 8, "tracingspancontext", of)?,
            age_us: get(row, from + 9, "created_at", of)?,
        })
    }

    /// Parses what has to be parsed; a row that makes no message says why.
    #[must_use]
    pub fn parse(mut self) -> ReadRow {
        let (destination, mut headers) =
            match (self.destination.parse::<Destination>(), headers(&self.headers)) {
                (Ok(destination), Ok(headers)) => (destination, headers),
                (Err(error), _) => return self.malformed(format!("{error}; correct what writes this row")),
                (_, Err(error)) => return self.malformed(error),
            };
        if self.tracingspancontext.as_deref().is_some_and(trace::is_properties) {
            let text = self.tracingspancontext.take().unwrap_or_default();
            let (parent, state) = trace::from_properties(&text);
            self.tracingspancontext = parent;
            if let Some(state) = state {
                headers.set_default(barid::headers::TRACESTATE, || state);
            }
        }
        let age = self.age_us.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0)));
        let row = OutgoingRow {
            seq: self.seq,
            id: self.id,
            destination,
            aggregatetype: self.aggregatetype,
            aggregateid: self.aggregateid,
            name: self.name,
            payload: self.payload.map(Bytes::from),
            headers,
            tracingspancontext: self.tracingspancontext,
            wire: None,
        };
        ReadRow::Row(row, age)
    }

    fn malformed(self, reason: String) -> ReadRow {
        let key = self.aggregateid.map(|aggregateid| (self.aggregatetype, aggregateid));
        ReadRow::Malformed { id: RowId { seq: self.seq, id: self.id }, key, reason }
    }
}

/// One column; an error says its name, and of which row.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
fn get<'r, R: Row, T>(row: &'r R, at: usize, name: &str, seq: Option<i64>) -> Result<T, sqlx::Error>
where
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(at).map_err(|error| {
        let index = match seq {
            Some(seq) => format!("{name} of the row with seq {seq}"),
            None => name.to_owned(),
        };
        match error {
            sqlx::Error::ColumnDecode { source, .. } => sqlx::Error::ColumnDecode { index, source },
            sqlx::Error::ColumnIndexOutOfBounds { .. } => sqlx::Error::ColumnNotFound(index),
            other => other,
        }
    })
}

fn headers(text: &str) -> Result<Headers, String> {
    if text == "{}" {
        return Ok(Headers::new());
    }
    let all: Headers = serde_json::from_str(text)
        .map_err(|error| format!("headers are not a JSON object of strings: {error}"))?;
    // Brokers hand such names on to programs that take them for the end of a line or of a text.
    if let Some((name, _)) = all.iter().find(|(name, _)| name.is_empty() || name.contains(char::is_control)) {
        return Err(format!("the name {name:?} of a header is empty or has control characters"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(destination: &str, headers: &str) -> Columns {
        Columns {
            seq: 7,
            id: Uuid::nil(),
            destination: destination.to_owned(),
            aggregatetype: "order".to_owned(),
            aggregateid: Some("1".to_owned()),
            name: "orders.placed".to_owned(),
            payload: Some(vec![1]),
            headers: headers.to_owned(),
            tracingspancontext: None,
            age_us: Some(-1),
        }
    }

    #[test]
    fn a_row_keeps_its_headers() {
        let ReadRow::Row(row, age) = columns("queue:a", r#"{"x": "1"}"#).parse() else { panic!("malformed") };
        assert_eq!((row.headers.get("x"), age), (Some("1"), Some(Duration::ZERO)));
    }

    #[test]
    fn the_context_of_a_trace_may_be_the_text_of_properties() {
        let mut row = columns("queue:a", "{}");
        row.tracingspancontext = Some("#at\ntraceparent=00-a-b-01\ntracestate=x\\=1\n".to_owned());
        let ReadRow::Row(row, _) = row.parse() else { panic!("malformed") };
        assert_eq!(row.tracingspancontext.as_deref(), Some("00-a-b-01"));
        assert_eq!(row.headers.get("tracestate"), Some("x=1"));
    }

    #[test]
    fn what_makes_no_message_says_why_and_keeps_its_key() {
        for (destination, headers, says) in [
            ("shipping", "{}", "shipping"),
            ("queue:a", r#"{"x": 1}"#, "headers"),
            ("queue:a", "[]", "headers"),
            ("queue:a", r#"{"a\r\nb": "1"}"#, "control characters"),
            ("queue:a", r#"{"a\u0000": "1"}"#, "control characters"),
            ("queue:a", r#"{"": "1"}"#, "empty"),
        ] {
            let row = columns(destination, headers).parse();
            let ReadRow::Malformed { id, key, reason } = row else { panic!("{destination} was accepted") };
            assert_eq!((id.seq, key), (7, Some(("order".to_owned(), "1".to_owned()))));
            assert!(reason.contains(says), "{reason}");
        }
    }
}
