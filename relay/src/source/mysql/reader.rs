//! The head reader.

use std::{collections::HashSet, fmt::Write as _, time::Instant};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor, MySqlConnection, Row, mysql::MySqlDatabaseError};

use super::{MySqlSource, session};
use crate::{
    lane::LeftOut,
    source::{
        At, ReadRow, Reader, SourceError, Want,
        bound::{Ask, Bound},
        decode::Columns,
    },
};

const COLUMNS: &str = "seq, id, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext, \
     TIMESTAMPDIFF(MICROSECOND, created_at, UTC_TIMESTAMP(6))";

/// Who may hold a position whose row is not visible yet: whoever has written something, or is about to and has locked its table.
const WRITERS: &str = "SELECT CAST(trx_id AS UNSIGNED) FROM information_schema.innodb_trx \
    WHERE trx_rows_modified > 0 OR trx_tables_locked > 0";

/// What MariaDB and MySQL say to a role without the privilege PROCESS.
pub(super) const ACCESS_DENIED: u16 = 1227;

type Writers = HashSet<u64>;

/// Reads the head of the table without what the relay still has.
pub(super) struct HeadReader {
    name: String,
    connection: MySqlConnection,
    /// From where; none where the open transactions cannot be seen.
    bound: Option<Bound<Writers>>,
}

impl HeadReader {
    pub(super) async fn open(source: &MySqlSource) -> Result<Self, SourceError> {
        let mut connection = session::open(source).await?;
        let bound = bound(source, &mut connection).await?;
        Ok(Self { name: source.name.clone(), connection, bound })
    }

    /// Asks what the bound wants to know.
    async fn move_bound(&mut self) -> Result<(), SourceError> {
        let (now, at) = (Instant::now(), At { name: &self.name });
        let Some(bound) = &mut self.bound else { return Ok(()) };
        let before = match bound.ask(now) {
            Ask::Nothing => return Ok(()),
            Ask::Mark => None,
            Ask::Ended(writers) => Some(writers.clone()),
        };
        let writers = at.bounded("listing open transactions", writers(&mut self.connection)).await?;
        match before {
            None => bound.mark(writers, now),
            Some(before) if before.is_disjoint(&writers) => bound.proven(),
            Some(_) => {}
        }
        Ok(())
    }
}

/// The bound, where it can be known.
async fn bound(
    source: &MySqlSource,
    session: &mut MySqlConnection,
) -> Result<Option<Bound<Writers>>, SourceError> {
    let at = source.at();
    // Positions of several servers come in no order: what another one took is not among the transactions of this one.
    let step = sqlx::query_scalar("SELECT @@auto_increment_increment").fetch_one(&mut *session);
    if at.bounded::<u64>("asking for the step of positions", step).await? != 1 {
        return Ok(None);
    }
    let denied = |error: &sqlx::Error| {
        let error =
            error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
        error.is_some_and(|error| error.number() == ACCESS_DENIED)
    };
    match at.bounded("listing open transactions", writers(session)).await {
        Ok(_) => Ok(Some(Bound::new())),
        Err(SourceError::Database { cause, .. }) if denied(&cause) => {
            tracing::info!(
                source = source.name,
                "without the privilege PROCESS every read passes over the rows that purge has not removed yet"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn writers(session: &mut MySqlConnection) -> Result<Writers, sqlx::Error> {
    let rows = session.fetch_all(sqlx::raw_sql(WRITERS)).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[async_trait]
impl Reader for HeadReader {
    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        self.move_bound().await?;
        let at = At { name: &self.name };
        let above = self.bound.as_ref().map_or(i64::MIN, Bound::above);
        // Only integers go into the text. As text it takes one round trip; prepared, a text of its own takes three.
        let text = AssertSqlSafe(head(above, want));
        let found = self.connection.fetch_all(sqlx::raw_sql(text));
        let found = at.bounded("reading the outbox", found).await?;
        let mut all = found.len() < want.rows_max;
        let (mut rows, mut bytes, mut last) = (Vec::with_capacity(found.len()), 0, None);
        for row in found {
            let columns = at.bounded("reading a row", async { Columns::of(&row, 0) }).await?;
            bytes += columns.payload.as_ref().map_or(0, Vec::len);
            last = Some(columns.seq);
            rows.push(columns.parse());
            if bytes > want.bytes_max {
                all = false;
                break;
            }
        }
        if let Some(bound) = &mut self.bound {
            bound.read(last, all, Instant::now());
        }
        Ok(rows)
    }

    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let text = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM outbox WHERE {} ORDER BY seq LIMIT {}",
            is_left_out(key),
            want.rows_max
        ));
        let read = async {
            let found = self.connection.fetch_all(sqlx::raw_sql(text)).await?;
            found.iter().map(|row| Columns::of(row, 0)).collect()
        };
        let found = At { name: &self.name }.bounded("reading a key", read).await?;
        Ok(want.take(found))
    }
}

/// The rows of a key from a position on. Only an integer and hex go into the text. Bytes are compared with
/// bytes: the collation of the columns takes names that differ by a space at the end for the same.
fn is_left_out(key: &LeftOut) -> String {
    let hex = |text: &str| {
        text.bytes().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    format!(
        "(seq >= {} AND CAST(aggregatetype AS BINARY) = x'{}' AND CAST(aggregateid AS BINARY) <=> x'{}')",
        key.from,
        hex(&key.aggregatetype),
        hex(&key.aggregateid)
    )
}

/// The head above a position, without what is known, which is in order, and without what was left out.
fn head(above: i64, want: &Want) -> String {
    let mut text = format!("SELECT {COLUMNS} FROM outbox WHERE seq > {above}");
    let known = &want.known[want.known.partition_point(|seq| *seq <= above)..];
    for (at, seq) in known.iter().enumerate() {
        text.push_str(if at == 0 { " AND seq NOT IN (" } else { "," });
        // Writing to a String cannot fail.
        let _ = write!(text, "{seq}");
    }
    if !known.is_empty() {
        text.push(')');
    }
    for key in &want.left_out {
        let _ = write!(text, " AND NOT {}", is_left_out(key)); // as above
    }
    let _ = write!(text, " ORDER BY seq LIMIT {}", want.rows_max); // as above
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_or_left_out_is_not_read() {
        let check = |above, known: &[i64], left_out: &[LeftOut], ends: &str| {
            let want = Want { rows_max: 5, bytes_max: 1, known: known.to_vec(), left_out: left_out.to_vec() };
            let text = head(above, &want);
            assert!(text.ends_with(&format!("{ends} ORDER BY seq LIMIT 5")), "{text}");
        };
        check(i64::MIN, &[], &[], "FROM outbox WHERE seq > -9223372036854775808");
        check(2, &[1, 2, 3, 7], &[], "WHERE seq > 2 AND seq NOT IN (3,7)");
        let key = LeftOut { aggregatetype: "o".to_owned(), aggregateid: "1'".to_owned(), from: 4 };
        let left_out = "AND NOT (seq >= 4 AND CAST(aggregatetype AS BINARY) = x'6f' \
            AND CAST(aggregateid AS BINARY) <=> x'3127')";
        check(2, &[], &[key], &format!("WHERE seq > 2 {left_out}"));
    }
}
