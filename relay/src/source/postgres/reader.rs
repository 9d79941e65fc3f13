//! The window reader: see the module above for why, this file for how.

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    PostgresSource, lease, session,
    snapshot::{Snapshot, Window, list},
};
use crate::{
    lease::Epoch,
    source::{At, ReadRow, Reader, SourceError, Want, decode::Columns},
};

macro_rules! columns {
    () => {
        "seq, id, destination, aggregatetype, aggregateid, type, payload, headers::text, tracingspancontext"
    };
}

/// A row that is visible and whose xid is in the future was not written here: a dump, a copy, a logical subscription. It
/// gets an xid of this server, and so its place in a window. Normally there are none. The epoch is locked before the rows.
const ADOPT: &str = "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $2 FOR SHARE), \
    adopted AS (UPDATE outbox SET xid = pg_current_xact_id() \
      WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND EXISTS (SELECT FROM fence) RETURNING 1) \
    SELECT EXISTS (SELECT FROM fence), (SELECT count(*) FROM adopted)";

/// Where the session is, and what has ended by now.
const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text, pg_backend_pid(), CASE WHEN pg_is_in_recovery() THEN '' \
    ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END";

/// What the window holds. $1 = from, $2 = below, $3 = still running, $4 = ended, $5 = limit. OFFSET 0 keeps the planner from
/// walking the primary key, where the dead rows are.
const WINDOW: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM (SELECT * FROM outbox WHERE xid >= $1::text::xid8 AND xid < $2::text::xid8 AND xid <> ALL ($3::text::xid8[]) \
     UNION ALL SELECT * FROM outbox WHERE xid = ANY ($4::text::xid8[]) OFFSET 0) t ORDER BY seq LIMIT $5"
);

/// A large window page by page, walking along `seq`. As above; $5 = after, $6 = limit. IS TRUE keeps the planner from
/// sorting the whole window for every page.
const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM outbox WHERE seq > $5 AND (xid < $2::text::xid8 AND xid <> ALL ($3::text::xid8[]) \
     AND (xid >= $1::text::xid8 OR xid = ANY ($4::text::xid8[]))) IS TRUE ORDER BY seq LIMIT $6"
);

/// Reads what became visible since its last read.
pub(super) struct WindowReader {
    name: String,
    place: String,
    connection: PgConnection,
    /// The snapshot whose rows were all handed out.
    seen: Snapshot,
    /// The server that `seen` belongs to.
    home: Option<Home>,
    walk: Option<Walk>,
}

/// A backend on a timeline: what a snapshot is only valid together with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    backend: i32,
    timeline: String,
}

/// A window that did not fit into one read.
struct Walk {
    window: Window,
    until: Snapshot,
    after: i64,
}

impl WindowReader {
    pub(super) async fn open(source: &PostgresSource) -> Result<Self, SourceError> {
        let connection = session::reader(source).await?;
        let (name, place) = (source.name.clone(), source.place());
        Ok(Self { name, place, connection, seen: Snapshot::nothing(), home: None, walk: None })
    }

    async fn snapshot(&mut self) -> Result<(Snapshot, Home), SourceError> {
        let asked = async {
            let row = sqlx::query(SNAPSHOT).fetch_one(&mut self.connection).await?;
            let snapshot: String = row.try_get(0)?;
            let snapshot = snapshot.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            Ok((snapshot, Home { backend: row.try_get(1)?, timeline: row.try_get(2)? }))
        };
        At { name: &self.name }.bounded("taking a snapshot", asked).await
    }

    /// The window to read from now on: the rest of a large one, or what ended since the last one.
    async fn window(&mut self) -> Result<Option<Walk>, SourceError> {
        if let Some(walk) = self.walk.take() {
            return Ok(Some(walk));
        }
        let (now, home) = self.snapshot().await?;
        if home.timeline.is_empty() {
            let (source_name, place) = (self.name.clone(), self.place.clone());
            return Err(SourceError::Replica { source_name, place });
        }
        match &self.home {
            Some(at) if at.backend != home.backend => {
                let (source_name, place) = (self.name.clone(), self.place.clone());
                return Err(SourceError::Pooler { source_name, place });
            }
            Some(at) if *at == home && self.seen.can_precede(&now) => {}
            // The first read, or a server that may have lost transactions: start from what is there.
            _ => self.seen = Snapshot::nothing(),
        }
        self.home = Some(home);
        let window = self.seen.until(&now);
        if window.is_empty() {
            self.seen = now;
            return Ok(None);
        }
        Ok(Some(Walk { window, until: now, after: i64::MIN }))
    }
}

#[async_trait]
impl Reader for WindowReader {
    async fn adopt(&mut self, epoch: Epoch) -> Result<u64, SourceError> {
        let doing = "adopting foreign rows";
        let adopt = sqlx::query_as(ADOPT).bind(&self.name).bind(epoch.0).fetch_one(&mut self.connection);
        let (newest, rows): (bool, i64) = At { name: &self.name }.bounded(doing, adopt).await?;
        if !newest {
            return Err(lease::fenced(&self.name, &mut self.connection, doing, epoch).await);
        }
        Ok(rows.unsigned_abs())
    }

    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let Some(walk) = self.window().await? else { return Ok(Vec::new()) };
        let fetch = fetch(&mut self.connection, &walk, &self.seen, want);
        let page = At { name: &self.name }.bounded("reading the outbox", fetch).await?;
        if page.complete {
            self.seen = walk.until;
        } else {
            self.walk = Some(Walk { after: page.last, ..walk });
        }
        Ok(page.rows)
    }
}

struct Page {
    rows: Vec<ReadRow>,
    last: i64,
    /// It was the end of the window.
    complete: bool,
}

async fn fetch(
    connection: &mut PgConnection,
    walk: &Walk,
    seen: &Snapshot,
    want: &Want,
) -> Result<Page, sqlx::Error> {
    let window = &walk.window;
    let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
    // At the start everything is new: along `seq` from the beginning, instead of sorting it all.
    let first_page = walk.after == i64::MIN && *seen != Snapshot::nothing();
    let query = sqlx::query(if first_page { WINDOW } else { PAGE })
        .bind(window.from.to_string())
        .bind(window.below.to_string())
        .bind(list(&window.still_running))
        .bind(list(&window.ended));
    let query = if first_page { query.bind(limit) } else { query.bind(walk.after).bind(limit) };
    let mut stream = query.fetch(connection);
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, walk.after);
    while let Some(row) = stream.try_next().await? {
        let columns = columns(&row)?;
        bytes += columns.payload.as_ref().map_or(0, Vec::len);
        last = columns.seq;
        rows.push(columns.parse());
        if bytes > want.bytes_max {
            return Ok(Page { rows, last, complete: false });
        }
    }
    let complete = rows.len() < want.rows_max;
    Ok(Page { rows, last, complete })
}

fn columns(row: &PgRow) -> Result<Columns, sqlx::Error> {
    Ok(Columns {
        seq: row.try_get(0)?,
        id: row.try_get(1)?,
        destination: row.try_get(2)?,
        aggregatetype: row.try_get(3)?,
        aggregateid: row.try_get(4)?,
        name: row.try_get(5)?,
        payload: row.try_get(6)?,
        headers: row.try_get(7)?,
        tracingspancontext: row.try_get(8)?,
    })
}
