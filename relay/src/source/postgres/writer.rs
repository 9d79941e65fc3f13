//! Deleting and parking on a connection of their own, while the reader reads.

use async_trait::async_trait;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{PostgresSource, lease, session};
use crate::{
    lane::{Park, RowId},
    lease::Epoch,
    source::{At, SourceError, Writer, held_keys_asked},
};

const DELETE: &str = "DELETE FROM outbox o USING unnest($1::bigint[], $2::uuid[]) AS d (seq, id) \
    WHERE o.seq = d.seq AND o.id = d.id";

/// One statement, so one transaction: the row is in one of the two tables at any time. The epoch is locked, so that another
/// relay takes over either before, and nothing happens here, or after, and finds the row parked.
const PARK: &str = "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $7 FOR SHARE), \
    p AS (SELECT * FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::int[], $6::text[]) \
      AS p (seq, id, state, attempts, reason)), \
    d AS (DELETE FROM outbox o USING fence, p WHERE o.seq = p.seq AND o.id = p.id RETURNING o.*), \
    i AS (INSERT INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, type, payload, headers, \
      tracingspancontext, created_at, state, attempts, last_error) \
    SELECT $1, d.id, d.seq, d.destination, d.aggregatetype, d.aggregateid, d.type, d.payload, d.headers, \
      d.tracingspancontext, d.created_at, p.state, p.attempts, p.reason FROM d JOIN p USING (seq, id) \
    ON CONFLICT (source, id, seq) DO NOTHING) \
    SELECT EXISTS (SELECT FROM fence)";

const HELD: &str = "SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = $1 AND aggregateid IS NOT NULL AND state <> 'skipped' LIMIT $2";

pub(super) struct PostgresWriter {
    name: String,
    connection: PgConnection,
}

impl PostgresWriter {
    pub(super) async fn open(source: &PostgresSource) -> Result<Self, SourceError> {
        Ok(Self { name: source.name.clone(), connection: session::writer(source).await? })
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn delete(&mut self, rows: &[RowId]) -> Result<u64, SourceError> {
        // In the order of the index, and so of the pages.
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let (seqs, ids): (Vec<i64>, Vec<Uuid>) = rows.iter().map(|row| (row.seq, row.id)).unzip();
        let call = sqlx::query(DELETE).bind(seqs).bind(ids).execute(&mut self.connection);
        Ok(At { name: &self.name }.bounded("deleting confirmed rows", call).await?.rows_affected())
    }

    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let seqs: Vec<i64> = rows.iter().map(|park| park.row.seq).collect();
        let ids: Vec<Uuid> = rows.iter().map(|park| park.row.id).collect();
        let states: Vec<&str> = rows.iter().map(|park| park.state.as_str()).collect();
        let attempts: Vec<i32> =
            rows.iter().map(|park| i32::try_from(park.attempts).unwrap_or(i32::MAX)).collect();
        let reasons: Vec<&str> = rows.iter().map(|park| park.reason.as_str()).collect();
        let call = sqlx::query_scalar(PARK).bind(&self.name).bind(seqs).bind(ids).bind(states).bind(attempts);
        let call = call.bind(reasons).bind(epoch.0).fetch_one(&mut self.connection);
        let doing = "parking rows";
        let newest: bool = At { name: &self.name }.bounded(doing, call).await?;
        if newest {
            return Ok(());
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn held_keys(&mut self) -> Result<Vec<(String, String)>, SourceError> {
        let call =
            sqlx::query_as(HELD).bind(&self.name).bind(held_keys_asked()).fetch_all(&mut self.connection);
        let at = At { name: &self.name };
        at.not_too_many(at.bounded("loading held keys", call).await?)
    }
}
