//! Tables of somebody else that have our columns and no `xid`: the head, again and again, above an exact bound.
//!
//! As on MariaDB every read leaves out what the relay still has. Deleted rows that vacuum cannot remove yet would make each read
//! slower; so reads begin above the highest position below which nothing can appear any more. A transaction takes its position
//! before it has an id; after [`AGE`](crate::source::bound::AGE) it has one, and is over when no running transaction is that old.
//!
//! That rests on the sequence: with a cache, sessions take positions ahead and use them later, so it must have none. What appears
//! below the bound all the same was put there by hand. It is looked for now and then, and parked: its key may have gone on.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::{Executor, PgConnection, Postgres, postgres::PgArguments, query::Query};

use super::{PostgresSource, session};
use crate::{
    lane::{LeftOut, RowId},
    source::{
        At, ReadRow, Reader, SourceError, Want,
        bound::{Ask, Bound},
        decode::Columns,
        mapping::{Mapping, Role},
    },
};

/// The pause between two looks for rows below the bound.
pub(super) const LATE_LOOK: Duration = Duration::from_secs(300);

/// The next transaction id: whoever took a position a while ago has a smaller one.
const NEXT_XID: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

/// The oldest transaction id that is still running.
const OLDEST_XID: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";

/// What is read in both places: $2 = what the relay has, $3 = limit, $4 to $6 = what it left out. `outbox` is the table: see
/// [`session`].
macro_rules! rows {
    ($place:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM outbox WHERE ",
            $place,
            " AND seq <> ALL ($2) AND (cardinality($4::bigint[]) = 0 OR NOT EXISTS (SELECT FROM \
             unnest($4::bigint[], $5::text[], $6::text[]) l (from_seq, of_type, of_id) \
             WHERE seq >= from_seq AND aggregatetype = of_type AND aggregateid = of_id)) ORDER BY seq LIMIT $3"
        )
    };
}

/// $1 = above.
const HEAD: &str = rows!("seq > $1");

/// $1 = up to.
const BELOW: &str = rows!("seq <= $1");

/// One key as it is now: $1 = from, $2 and $3 = the key, $4 = limit.
const KEY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM outbox WHERE seq >= $1 AND aggregatetype = $2 AND aggregateid = $3 ORDER BY seq LIMIT $4"
);

/// The cache of the sequence behind a column: $1 = the table, $2 = the column; none without a sequence.
const CACHE: &str = "SELECT seqcache FROM pg_sequence \
    WHERE seqrelid = pg_get_serial_sequence(quote_ident($1), $2)::regclass";

/// Reads the head of the table without what the relay still has.
pub(super) struct HeadReader {
    name: String,
    connection: PgConnection,
    bound: Bound<i64>,
    late_look: Duration,
    looked: Instant,
}

impl HeadReader {
    pub(super) async fn open(source: &PostgresSource, mapping: &Mapping) -> Result<Self, SourceError> {
        let (table, seq) = (mapping.table.as_str(), mapping.name_of(Role::Seq));
        let mut connection = session::reader(source).await?;
        let cache = sqlx::query_scalar(CACHE).bind(table).bind(seq).fetch_optional(&mut connection);
        let cache: Option<i64> = source.at().bounded("looking at the sequence", cache).await?;
        if cache != Some(1) {
            let cause = match cache {
                Some(cache) => {
                    format!("the sequence of {table}.{seq} has CACHE {cache}, so positions come in no order")
                }
                None => format!(
                    "{table}.{seq} has no sequence of its own, so nothing says in which order positions come"
                ),
            };
            let remedy = "make it an identity column or a bigserial, with ALTER SEQUENCE .. CACHE 1";
            return Err(SourceError::Unsuitable { source_name: source.name.clone(), cause, remedy });
        }
        let (name, late_look) = (source.name.clone(), source.late_look);
        Ok(Self { name, connection, bound: Bound::new(), late_look, looked: Instant::now() })
    }

    /// Asks what the bound wants to know.
    async fn move_bound(&mut self) -> Result<(), SourceError> {
        let (now, at) = (Instant::now(), At { name: &self.name });
        let before = match self.bound.ask(now) {
            Ask::Nothing => return Ok(()),
            Ask::Mark => None,
            Ask::Ended(next) => Some(*next),
        };
        let asked = sqlx::query_scalar(if before.is_some() { OLDEST_XID } else { NEXT_XID });
        let xid = at.bounded("looking at transactions", asked.fetch_one(&mut self.connection)).await?;
        match before {
            None => self.bound.mark(xid, now),
            Some(next) if xid >= next => self.bound.proven(),
            Some(_) => {}
        }
        Ok(())
    }

    async fn rows(&mut self, sql: &'static str, from: i64, want: &Want) -> Result<Vec<Columns>, SourceError> {
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let query = sqlx::query(sql).bind(from).bind(&want.known).bind(limit);
        let left_out = &want.left_out;
        let query = query
            .bind(left_out.iter().map(|key| key.from).collect::<Vec<_>>())
            .bind(left_out.iter().map(|key| key.aggregatetype.as_str()).collect::<Vec<_>>())
            .bind(left_out.iter().map(|key| key.aggregateid.as_str()).collect::<Vec<_>>());
        self.fetch("reading the outbox", query).await
    }

    async fn fetch(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<Columns>, SourceError> {
        let read = async {
            let rows = self.connection.fetch_all(query).await?;
            rows.iter().map(|row| Columns::of(row, 0)).collect()
        };
        At { name: &self.name }.bounded(doing, read).await
    }

    /// Rows that appeared where nothing can appear.
    async fn late(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let above = self.bound.above();
        if above == i64::MIN || self.looked.elapsed() < self.late_look {
            return Ok(Vec::new());
        }
        self.looked = Instant::now();
        let rows = self.rows(BELOW, above, want).await?;
        Ok(rows.into_iter().map(|row| late(row, above)).collect())
    }
}

fn late(row: Columns, above: i64) -> ReadRow {
    ReadRow::Late {
        id: RowId { seq: row.seq, id: row.id },
        key: row.aggregateid.map(|id| (row.aggregatetype, id)),
        reason: format!(
            "appeared below position {above} after every transaction had ended that could have put it there; later rows of \
             its key may have left. Find out who chooses positions by hand or has reset the sequence, then retry it"
        ),
    }
}

#[async_trait]
impl Reader for HeadReader {
    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        self.move_bound().await?;
        let late = self.late(want).await?;
        if !late.is_empty() {
            return Ok(late);
        }
        let found = self.rows(HEAD, self.bound.above(), want).await?;
        let mut all = found.len() < want.rows_max;
        let (mut rows, mut bytes, mut last) = (Vec::with_capacity(found.len()), 0, None);
        for columns in found {
            bytes += columns.payload.as_ref().map_or(0, Vec::len);
            last = Some(columns.seq);
            rows.push(columns.parse());
            if bytes > want.bytes_max {
                all = false;
                break;
            }
        }
        self.bound.read(last, all, Instant::now());
        Ok(rows)
    }

    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let query =
            sqlx::query(KEY).bind(key.from).bind(&key.aggregatetype).bind(&key.aggregateid).bind(limit);
        Ok(want.take(self.fetch("reading a key", query).await?))
    }
}
