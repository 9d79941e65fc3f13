//! The window reader: see the module above for why, this file for how.

use async_trait::async_trait;
use futures::{Stream, TryStreamExt};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    PostgresSource, lease, session,
    snapshot::{Snapshot, Window, list},
};
use crate::{
    lane::LeftOut,
    lease::Epoch,
    source::{At, ReadRow, Reader, SourceError, Want, decode::Columns},
};

/// Where the session is, and what has ended by now.
macro_rules! now {
    () => {
        "pg_current_snapshot()::text, pg_backend_pid(), CASE WHEN pg_is_in_recovery() THEN '' \
         ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
    };
}

/// A row that is visible and whose xid is in the future was not written here: a dump, a copy, a logical subscription. It
/// gets an xid of this server, and so its place in a window. Normally there are none. The epoch is locked before the rows.
const ADOPT: &str = "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $2 FOR SHARE), \
    adopted AS (UPDATE outbox SET xid = pg_current_xact_id() \
      WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND EXISTS (SELECT FROM fence) RETURNING 1) \
    SELECT EXISTS (SELECT FROM fence), (SELECT count(*) FROM adopted)";

const SNAPSHOT: &str = concat!("SELECT ", now!());

/// The snapshot, and what is visible in it that was not in an earlier one: $1 = xmax of that one, $2 = what was running in it,
/// $3 = limit. A statement sees exactly what its `pg_current_snapshot()` says, so one round trip is enough. OFFSET 0 keeps the
/// planner from walking the primary key, where the dead rows are.
const WINDOW: &str = concat!(
    "SELECT ",
    now!(),
    ", NULL::bigint, NULL::uuid, NULL::text, NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::text, \
     NULL::bigint \
     UNION ALL (SELECT NULL, NULL, NULL, ",
    columns!(),
    " FROM (SELECT * FROM outbox WHERE xid >= $1::text::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot()) \
     UNION ALL SELECT * FROM outbox WHERE xid = ANY ($2::text::xid8[]) OFFSET 0) t ORDER BY seq LIMIT $3)"
);

/// A large window page by page, walking along `seq`: $1 = from, $2 = below, $3 = still running, $4 = ended, $5 = after, $6 =
/// limit. IS TRUE keeps the planner from sorting the whole window for every page; the sub-selects turn the texts into ids once, not for
/// every row.
const PAGE: &str = concat!(
    "SELECT NULL, NULL, NULL, ",
    columns!(),
    " FROM outbox WHERE seq > $5 AND (xid < (SELECT $2::text::xid8) AND xid <> ALL ((SELECT $3::text::xid8[])::xid8[]) \
     AND (xid >= (SELECT $1::text::xid8) OR xid = ANY ((SELECT $4::text::xid8[])::xid8[]))) IS TRUE ORDER BY seq LIMIT $6"
);

/// One key as it is now: $1 = from, $2 and $3 = the key, $4 = limit.
const KEY: &str = concat!(
    "SELECT NULL, NULL, NULL, ",
    columns!(),
    " FROM outbox WHERE seq >= $1 AND aggregatetype = $2 AND aggregateid = $3 ORDER BY seq LIMIT $4"
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

    /// Refuses what cannot be read from; says whether `seen` still means something there.
    fn arrive(&mut self, now: &Snapshot, home: Home) -> Result<bool, SourceError> {
        let (source_name, place) = (self.name.clone(), self.place.clone());
        if home.timeline.is_empty() {
            return Err(SourceError::Replica { source_name, place });
        }
        if self.home.as_ref().is_some_and(|at| at.backend != home.backend) {
            return Err(SourceError::Pooler { source_name, place });
        }
        // On another timeline the server may have lost transactions.
        let same = self.home.as_ref() == Some(&home) && self.seen.can_precede(now);
        self.home = Some(home);
        Ok(same)
    }

    /// Everything that is there, page by page: the start.
    async fn everything(&mut self) -> Result<Walk, SourceError> {
        let asked = async { here(&sqlx::query(SNAPSHOT).fetch_one(&mut self.connection).await?) };
        let (now, home) = At { name: &self.name }.bounded("taking a snapshot", asked).await?;
        self.arrive(&now, home)?;
        self.seen = Snapshot::nothing();
        Ok(Walk { window: self.seen.until(&now), until: now, after: i64::MIN })
    }

    /// What ended since the last read; a walk when it is too much for one.
    async fn news(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let query = sqlx::query(WINDOW).bind(self.seen.xmax().to_string()).bind(list(self.seen.running()));
        let mut stream = query.bind(limit).fetch(&mut self.connection);
        let read = async {
            let first = stream.try_next().await?.ok_or(sqlx::Error::RowNotFound)?;
            let (now, home) = here(&first)?;
            Ok((now, home, collect(stream, want, i64::MIN).await?))
        };
        let (now, home, page) = At { name: &self.name }.bounded("reading the outbox", read).await?;
        if !self.arrive(&now, home)? {
            // What was read is not what is new. Start from what is there.
            self.seen = Snapshot::nothing();
            return Ok(Vec::new());
        }
        if page.complete {
            self.seen = now;
        } else {
            self.walk = Some(Walk { window: self.seen.until(&now), until: now, after: page.last });
        }
        Ok(page.rows)
    }

    async fn page(&mut self, walk: Walk, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let window = &walk.window;
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let stream = sqlx::query(PAGE)
            .bind(window.from.to_string())
            .bind(window.below.to_string())
            .bind(list(&window.still_running))
            .bind(list(&window.ended))
            .bind(walk.after)
            .bind(limit)
            .fetch(&mut self.connection);
        let page = collect(stream, want, walk.after);
        let page = At { name: &self.name }.bounded("reading the outbox", page).await?;
        if page.complete {
            self.seen = walk.until;
        } else {
            self.walk = Some(Walk { after: page.last, ..walk });
        }
        Ok(page.rows)
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
        let walk = match self.walk.take() {
            Some(walk) => walk,
            None if self.seen == Snapshot::nothing() => self.everything().await?,
            None => return self.news(want).await,
        };
        self.page(walk, want).await
    }

    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let limit = i64::try_from(want.rows_max).unwrap_or(i64::MAX);
        let query =
            sqlx::query(KEY).bind(key.from).bind(&key.aggregatetype).bind(&key.aggregateid).bind(limit);
        let page = collect(query.fetch(&mut self.connection), want, key.from);
        Ok(At { name: &self.name }.bounded("reading a key", page).await?.rows)
    }
}

struct Page {
    rows: Vec<ReadRow>,
    last: i64,
    /// It was the end of the window.
    complete: bool,
}

async fn collect(
    mut stream: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    want: &Want,
    after: i64,
) -> Result<Page, sqlx::Error> {
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, after);
    while let Some(row) = stream.try_next().await? {
        // After the three columns of `now!`.
        let columns = Columns::of(&row, 3)?;
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

fn here(row: &PgRow) -> Result<(Snapshot, Home), sqlx::Error> {
    let snapshot: String = row.try_get(0)?;
    let snapshot = snapshot.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok((snapshot, Home { backend: row.try_get(1)?, timeline: row.try_get(2)? }))
}
