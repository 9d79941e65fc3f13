//! Deleting, archiving and parking on a connection of their own, while the reader reads.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    PostgresSource, archive, lease,
    put_back::{self, Home},
    session,
};
use crate::{
    archive::Expired,
    lane::{Park, RowId},
    lease::Epoch,
    source::{At, BEFORE_ALL, HeldKey, OldTransaction, PARKED_PAGE, Released, SourceError, Writer},
};

const DELETE: &str = "DELETE FROM outbox o USING unnest($1::bigint[], $2::uuid[]) AS d (seq, id) \
    WHERE o.seq = d.seq AND o.id = d.id";

/// One statement, so one transaction: the row is in one of the two tables at any time. The epoch is locked, so that another
/// relay takes over either before, and nothing happens here, or after, and finds the row parked.
const PARK: &str = "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $8 FOR SHARE), \
    p AS (SELECT * FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::int[], $6::text[], $7::text[]) \
      AS p (seq, id, state, attempts, reason, fingerprint)), \
    d AS (DELETE FROM outbox o USING fence, p WHERE o.seq = p.seq AND o.id = p.id RETURNING o.*), \
    i AS (INSERT INTO relay_parked (source, id, seq, destination, aggregatetype, aggregateid, type, payload, headers, \
      tracingspancontext, created_at, state, attempts, last_error, fingerprint) \
    SELECT $1, d.id, d.seq, d.destination, d.aggregatetype, d.aggregateid, d.type, d.payload, d.headers, \
      d.tracingspancontext, d.created_at, p.state, p.attempts, p.reason, p.fingerprint FROM d JOIN p USING (seq, id) \
    ON CONFLICT (source, id, seq) DO NOTHING) \
    SELECT EXISTS (SELECT FROM fence)";

const HELD: &str = "SELECT seq, id, aggregatetype, aggregateid FROM relay_parked WHERE source = $1 AND state = 'poison' \
    AND aggregateid IS NOT NULL AND (seq, id) > ($2, $3) ORDER BY seq, id LIMIT $4";

const RELEASED: &str = "SELECT coalesce((SELECT times FROM relay_released WHERE source = $1), 0), \
    EXISTS (SELECT FROM relay_parked WHERE source = $1)";

/// Who has held a snapshot of this database, or a prepared transaction, for longest. What a role may not see is not there.
const OLDEST: &str = "SELECT who, age FROM (SELECT format('session %s of %s, application %s', pid, usename, \
        coalesce(nullif(application_name, ''), 'without a name')) AS who, \
      extract(epoch FROM clock_timestamp() - xact_start)::bigint AS age FROM pg_stat_activity \
      WHERE backend_xmin IS NOT NULL AND xact_start IS NOT NULL AND backend_type = 'client backend' \
        AND datname = current_database() AND pid <> pg_backend_pid() \
    UNION ALL SELECT format('prepared transaction %s', gid), extract(epoch FROM clock_timestamp() - prepared)::bigint \
      FROM pg_prepared_xacts WHERE database = current_database()) held ORDER BY age DESC LIMIT 1";

pub(super) struct PostgresWriter {
    name: String,
    connection: PgConnection,
    put_back: String,
}

impl PostgresWriter {
    pub(super) async fn open(source: &PostgresSource) -> Result<Self, SourceError> {
        let (connection, plan) = session::writer(source).await?;
        let home = plan.map_or_else(Home::outbox, |plan| plan.home);
        Ok(Self { name: source.name.clone(), connection, put_back: put_back::statement(&home) })
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

    async fn archive(&mut self, epoch: Epoch, rows: &[RowId]) -> Result<u64, SourceError> {
        let doing = "archiving confirmed rows";
        let call = archive::archive(&mut self.connection, &self.name, epoch, rows);
        if let Some(moved) = (At { name: &self.name }).bounded(doing, call).await? {
            return Ok(moved);
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn expire(&mut self, epoch: Epoch, keep: Duration, after: i64) -> Result<Expired, SourceError> {
        let doing = "removing old rows of the archive";
        let call = archive::expire(&mut self.connection, &self.name, epoch, keep, after);
        if let Some(expired) = (At { name: &self.name }).bounded(doing, call).await? {
            return Ok(expired);
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError> {
        let seqs: Vec<i64> = rows.iter().map(|park| park.row.seq).collect();
        let ids: Vec<Uuid> = rows.iter().map(|park| park.row.id).collect();
        let states: Vec<&str> = rows.iter().map(|park| park.state.as_str()).collect();
        let attempts: Vec<i32> =
            rows.iter().map(|park| i32::try_from(park.attempts).unwrap_or(i32::MAX)).collect();
        let reasons: Vec<&str> = rows.iter().map(|park| park.reason.as_str()).collect();
        let fingerprints: Vec<Option<&str>> = rows.iter().map(|park| park.fingerprint.as_deref()).collect();
        let call = sqlx::query_scalar(PARK).bind(&self.name).bind(seqs).bind(ids).bind(states).bind(attempts);
        let call = call.bind(reasons).bind(fingerprints).bind(epoch.0).fetch_one(&mut self.connection);
        let doing = "parking rows";
        let newest: bool = At { name: &self.name }.bounded(doing, call).await?;
        if newest {
            return Ok(());
        }
        Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await)
    }

    async fn held_keys(&mut self, after: Option<RowId>) -> Result<Vec<HeldKey>, SourceError> {
        let after = after.unwrap_or(BEFORE_ALL);
        let call = sqlx::query_as(HELD).bind(&self.name).bind(after.seq).bind(after.id).bind(PARKED_PAGE);
        let rows = call.fetch_all(&mut self.connection);
        let rows: Vec<(i64, Uuid, String, String)> =
            At { name: &self.name }.bounded("loading held keys", rows).await?;
        let key = |(seq, id, aggregatetype, aggregateid)| HeldKey {
            row: RowId { seq, id },
            aggregatetype,
            aggregateid,
        };
        Ok(rows.into_iter().map(key).collect())
    }

    async fn put_back(&mut self, epoch: Epoch) -> Result<u64, SourceError> {
        let (mut after, mut moved) = (BEFORE_ALL, 0);
        let doing = "putting released rows back";
        loop {
            let statement = sqlx::AssertSqlSafe(self.put_back.clone());
            let call = sqlx::query_as(statement).bind(&self.name).bind(after.seq).bind(after.id);
            let rows = call.bind(PARKED_PAGE).bind(epoch.0).fetch_all(&mut self.connection);
            let rows: Vec<(bool, Option<i64>, Option<Uuid>)> =
                At { name: &self.name }.bounded(doing, rows).await?;
            match rows.last() {
                Some(&(true, Some(seq), Some(id))) => {
                    (after, moved) = (RowId { seq, id }, moved + rows.len() as u64);
                }
                Some((true, ..)) => return Ok(moved),
                _ => return Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await),
            }
        }
    }

    async fn released(&mut self) -> Result<Released, SourceError> {
        let call = sqlx::query_as(RELEASED).bind(&self.name).fetch_one(&mut self.connection);
        let (times, parked) = At { name: &self.name }.bounded("looking for released rows", call).await?;
        Ok(Released { times, parked })
    }

    async fn oldest(&mut self) -> Result<Option<OldTransaction>, SourceError> {
        let oldest = sqlx::query_as(OLDEST).fetch_optional(&mut self.connection);
        let oldest = At { name: &self.name }.bounded("looking for old transactions", oldest).await?;
        Ok(oldest.map(|(who, age_s): (String, i64)| OldTransaction {
            age: Duration::from_secs(age_s.unsigned_abs()),
            who,
        }))
    }
}
