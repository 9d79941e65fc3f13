//! What the three databases share in writing SQL text and in reading errors.
//!
//! Everything that is interpolated goes through [`Literals`], which writes hex, or what [`push_plain`] lets pass.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Database, Either, Executor, raw_sql};
use uuid::Uuid;

use super::{
    backend::Verdict,
    statement::{Statement, Writes, push_all},
};
use crate::transport::OutgoingRow;

/// [`Verdict`] of everything that is not an answer of the server: the answer is missing.
pub(crate) fn verdict_by(
    error: &sqlx::Error,
    refused: impl Fn(&dyn sqlx::error::DatabaseError) -> bool,
) -> Verdict {
    match error {
        sqlx::Error::Database(answer) if refused(answer.as_ref()) => Verdict::Refused,
        // Nothing was sent: the text was refused on our side, or a bound value could not be encoded.
        sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}

pub(crate) const RELEASE: &str = "RELEASE SAVEPOINT barid_unit";
const COMMIT: &str = ";COMMIT";

/// How a database writes values into SQL text. Each appends one literal that holds nothing but hex, or what [`push_plain`] lets
/// pass, and what the database's syntax needs around it.
pub(crate) trait Literals {
    /// A UUID.
    fn id(out: &mut String, id: Uuid);
    /// Text, in UTF-8.
    fn text(out: &mut String, text: &str);
    /// A JSON document.
    fn json(out: &mut String, json: &str);
    /// Bytes.
    fn bytes(out: &mut String, bytes: &[u8]);
}

/// Appends `text` between quotes as it is, when it holds nothing but printable ASCII, no quote and no backslash: nothing in it
/// means anything but itself then, whatever the session's settings. False when it does not, with nothing appended.
///
/// For PostgreSQL, which spends a tenth of a message's instructions on lexing and decoding hex; MariaDB reads hex as fast.
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) fn push_plain(out: &mut String, text: &[u8]) -> bool {
    let plain = text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'\'' | b'\\'));
    let text = std::str::from_utf8(text).ok().filter(|_| plain);
    if let Some(text) = text {
        out.push('\'');
        out.push_str(text);
        out.push('\'');
    }
    text.is_some()
}

/// Appends `bytes` in hex.
pub(crate) fn push_hex(out: &mut String, bytes: &[u8]) {
    const CHUNK: usize = 64;
    let mut digits = [0; CHUNK * 2];
    out.reserve(bytes.len() * 2);
    for chunk in bytes.chunks(CHUNK) {
        let digits = &mut digits[..chunk.len() * 2];
        // Neither can fail: there is room for two digits a byte, and digits are ASCII.
        if hex::encode_to_slice(chunk, digits).is_ok()
            && let Ok(digits) = std::str::from_utf8(digits)
        {
            out.push_str(digits);
        }
    }
}

/// Sends a text and returns what each of its statements answered, in order.
pub(crate) async fn answers<DB: Database>(
    connection: &mut DB::Connection,
    text: String,
) -> Result<Vec<(DB::QueryResult, Vec<DB::Row>)>, sqlx::Error>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut steps = connection.fetch_many(raw_sql(AssertSqlSafe(text)));
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(result) => all.push((result, std::mem::take(&mut rows))),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok(all)
}

/// Sends one statement by itself and returns what it answered.
pub(crate) async fn ask<DB: Database, L: Literals>(
    connection: &mut DB::Connection,
    statement: &Statement,
) -> Result<(DB::QueryResult, Vec<DB::Row>), sqlx::Error>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut text = String::new();
    statement.render::<L>(&mut text);
    answers::<DB>(connection, text).await?.pop().ok_or(sqlx::Error::RowNotFound)
}

/// The rows of the last `reads` statements of a text.
pub(crate) fn last_rows<Q, R>(answers: Vec<(Q, Vec<R>)>, reads: usize) -> Vec<Vec<R>> {
    let first = answers.len().saturating_sub(reads);
    answers.into_iter().skip(first).map(|(_, rows)| rows).collect()
}

/// Writes the closing text: the release of the savepoint, what else joins it, the insert of the outbox rows, COMMIT. `None`
/// when the text would be too large.
///
/// The release comes first: it fails when the transaction is aborted or was ended by hand or by a DDL statement, and nothing
/// after it runs. An insert before it would commit on its own then.
pub(crate) fn closing<L: Literals>(writes: &Writes) -> Option<String> {
    if writes.is_empty() {
        return Some([RELEASE, COMMIT].concat());
    }
    let mut out = closing_begun::<L>(writes)?;
    if !writes.outbox.is_empty() {
        for part in [";INSERT INTO outbox(", OUTBOX_COLUMNS, ")VALUES"] {
            out.push_str(part);
        }
    }
    for (at, row) in writes.outbox.iter().enumerate() {
        out.push_str(if at == 0 { "(" } else { ",(" });
        push_row::<L>(&mut out, row);
        out.push(')');
    }
    closing_ended(out)
}

/// The closing text up to the outbox, with room for the rest. `None` when the text would be too large.
pub(crate) fn closing_begun<L: Literals>(writes: &Writes) -> Option<String> {
    let payload: usize = writes.outbox.iter().map(OutgoingRow::payload_len).sum();
    if payload * 2 > crate::limits::OUTBOX_TEXT_BYTES_MAX {
        return None;
    }
    let mut out = String::with_capacity(payload * 2 + 256 + writes.outbox.len() * 1024);
    out.push_str(RELEASE);
    push_all::<L>(&mut out, &writes.statements);
    Some(out)
}

/// The closing text with its end. `None` when it has become too large.
pub(crate) fn closing_ended(mut out: String) -> Option<String> {
    out.push_str(COMMIT);
    (out.len() <= crate::limits::OUTBOX_TEXT_BYTES_MAX).then_some(out)
}

/// Writes the values of [`OUTBOX_COLUMNS`].
pub(crate) fn push_row<L: Literals>(out: &mut String, row: &OutgoingRow) {
    L::id(out, row.id);
    out.push(',');
    L::text(out, &row.destination.to_string());
    out.push(',');
    L::text(out, &row.aggregatetype);
    out.push(',');
    or_null(out, row.aggregateid.as_deref(), L::text);
    out.push(',');
    L::text(out, &row.name);
    out.push(',');
    or_null(out, row.payload.as_deref(), L::bytes);
    out.push(',');
    L::json(out, &headers_json(row));
    out.push(',');
    or_null(out, row.tracingspancontext.as_deref(), L::text);
}

fn or_null<T: ?Sized>(out: &mut String, value: Option<&T>, literal: fn(&mut String, &T)) {
    match value {
        Some(value) => literal(out, value),
        None => out.push_str("NULL"),
    }
}

/// The columns that [`closing`] fills, in its order.
pub(crate) const OUTBOX_COLUMNS: &str =
    "id,destination,aggregatetype,aggregateid,type,payload,headers,tracingspancontext";

/// The headers of a row as the JSON object that its column holds.
pub(crate) fn headers_json(row: &OutgoingRow) -> String {
    serde_json::to_string(&row.headers).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn hex_is_whole_whatever_its_length() {
        for length in [0, 1, 63, 64, 65, 200] {
            let bytes: Vec<u8> = (0..length).collect();
            let mut out = "x".to_owned();
            push_hex(&mut out, &bytes);
            assert_eq!(out, format!("x{}", hex::encode(&bytes)));
        }
    }

    #[test]
    fn only_text_that_means_nothing_to_a_database_is_written_as_it_is() {
        let mut out = String::new();
        assert!(push_plain(&mut out, b"{\"a\":\"b; -- /*! c */ %s $1 ?\"}"));
        assert_eq!(out, "'{\"a\":\"b; -- /*! c */ %s $1 ?\"}'");
        for byte in u8::MIN..=u8::MAX {
            let mut out = String::new();
            let refused = !matches!(byte, 0x20..=0x7e) || byte == b'\'' || byte == b'\\';
            assert_eq!(push_plain(&mut out, &[b'a', byte, b'b']), !refused, "{byte:#x}");
            assert_eq!(out.is_empty(), refused, "{byte:#x}");
        }
    }

    /// Shows what it was given, so that a test can see the text.
    struct Plain;

    impl Literals for Plain {
        fn id(out: &mut String, id: Uuid) {
            out.push_str(&id.simple().to_string());
        }

        fn text(out: &mut String, text: &str) {
            out.push_str(text);
        }

        fn json(out: &mut String, json: &str) {
            out.push_str(json);
        }

        fn bytes(out: &mut String, bytes: &[u8]) {
            push_hex(out, bytes);
        }
    }

    #[test]
    fn the_closing_text_releases_first_and_inserts_the_rows_in_their_order() {
        let writes = |outbox| Writes { outbox, statements: Vec::new() };
        assert_eq!(closing::<Plain>(&writes(vec![])).unwrap(), "RELEASE SAVEPOINT barid_unit;COMMIT");
        let row = |key: Option<&str>, payload: Option<usize>| OutgoingRow {
            seq: 0,
            id: Uuid::nil(),
            destination: crate::Destination::topic("t").unwrap(),
            aggregatetype: "a".to_owned(),
            aggregateid: key.map(str::to_owned),
            name: "n".to_owned(),
            payload: payload.map(|length| vec![0x7f; length].into()),
            headers: crate::Headers::new(),
            tracingspancontext: None,
            wire: None,
        };
        let id = "0".repeat(32);
        assert_eq!(
            closing::<Plain>(&writes(vec![row(Some("k"), Some(2)), row(None, None)])).unwrap(),
            format!(
                "RELEASE SAVEPOINT barid_unit;INSERT INTO outbox({OUTBOX_COLUMNS})VALUES\
                 ({id},topic:t,a,k,n,7f7f,{{}},NULL),({id},topic:t,a,NULL,n,NULL,{{}},NULL);COMMIT"
            )
        );
        let many = vec![row(None, Some(100)); crate::limits::OUTBOX_TEXT_BYTES_MAX / 200];
        assert_eq!(closing::<Plain>(&writes(many)), None, "too large for text");
    }

    #[test]
    fn statements_stand_between_the_release_and_the_outbox() {
        let statement = Statement::new("UPDATE t SET a=").int(-7).sql(",b=").text("x").sql(",c=").bytes(None);
        let mut writes = Writes { outbox: Vec::new(), statements: vec![statement] };
        let updated = "RELEASE SAVEPOINT barid_unit;UPDATE t SET a=-7,b=x,c=NULL";
        assert_eq!(closing::<Plain>(&writes).unwrap(), format!("{updated};COMMIT"));
        writes.statements.push(Statement::new("SELECT ").id(Uuid::nil()));
        assert_eq!(closing::<Plain>(&writes).unwrap(), format!("{updated};SELECT {};COMMIT", "0".repeat(32)));
        let large = Bytes::from(vec![7; crate::limits::OUTBOX_TEXT_BYTES_MAX / 2]);
        writes.statements.push(Statement::new("SELECT ").bytes(large));
        assert_eq!(closing::<Plain>(&writes), None, "too large for text");
    }
}
