//! Where the relay reads from: the outbox of one database.
//!
//! A [`Source`] gives out one [`Reader`], which reads rows in their order, one [`Writer`], which deletes or archives what was
//! confirmed and parks what cannot be delivered, and one [`Leases`], which says whose the table is: each on a connection of its own, and
//! each of no more use after an error: the relay opens a new one. No transaction of theirs is open while anybody waits for a
//! broker. What is written carries the [`Epoch`] of the writer's ownership and is refused ([`SourceError::Fenced`]) when there
//! is a newer one, deletes of confirmed rows excepted.
//!
//! Readers may hand out a row again after a reconnect; the lanes know it. They never hand out a row of a key before an
//! earlier one of that key, as long as the writers of a key serialise before they insert (promise O).

use std::time::Duration;

use async_trait::async_trait;
use barid::{Doorbell, transport::OutgoingRow};

use crate::{
    archive::Expired,
    lane::{LeftOut, Park, RowId},
    lease::{Candidate, Epoch, Leases},
};

mod at;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod audit;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod bound;
pub mod decode;
mod error;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod explain;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod holder;
pub mod identifier;
pub mod mapping;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod open;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod parked;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod replay;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod survey;

use self::at::At;
pub use self::error::SourceError;

/// One row as it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadRow {
    /// It can be routed. How old it was when the read was answered, by the database's clock, where that is known.
    Row(OutgoingRow, Option<Duration>),
    /// Its columns make no message: it is parked with the reason.
    Malformed {
        /// Which row.
        id: RowId,
        /// Its ordering key, if it has one.
        key: Option<(String, String)>,
        /// What is wrong with it.
        reason: String,
    },
    /// It appeared where nothing could appear any more: it is parked with the reason, because later rows of its key may have left.
    Late {
        /// Which row.
        id: RowId,
        /// Its ordering key, if it has one.
        key: Option<(String, String)>,
        /// Where it appeared.
        reason: String,
    },
}

impl ReadRow {
    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> RowId {
        match self {
            Self::Row(row, _) => RowId::of(row),
            Self::Malformed { id, .. } | Self::Late { id, .. } => *id,
        }
    }
}

/// How much to read.
#[derive(Clone, Debug)]
pub struct Want {
    /// At most so many rows.
    pub rows_max: usize,
    /// Stop after the row whose payload passes this many bytes.
    pub bytes_max: usize,
    /// Positions of the rows that the relay still has, in order. Only filled when [`Source::needs_known`].
    pub known: Vec<i64>,
    /// Rows that the relay has seen and left where they are: they are read by [`Reader::again`] and by nothing else. Filled like
    /// `known`.
    pub left_out: Vec<LeftOut>,
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
impl Want {
    /// As many of these as there is room for.
    fn take(&self, found: Vec<decode::Columns>) -> Vec<ReadRow> {
        let (mut rows, mut bytes) = (Vec::with_capacity(found.len()), 0);
        for columns in found {
            bytes += columns.payload.as_ref().map_or(0, Vec::len);
            rows.push(columns.parse());
            if bytes > self.bytes_max {
                break;
            }
        }
        rows
    }
}

/// A table that the relay empties.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The name that the configuration gives it; parked rows carry it.
    fn name(&self) -> &str;

    /// Whether [`Want::known`] and [`Want::left_out`] must be filled.
    fn needs_known(&self) -> bool {
        false
    }

    /// A connection for asking whose the table is, and for making it `by`'s.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    async fn leases(&self, by: &Candidate) -> Result<Box<dyn Leases>, SourceError>;

    /// A connection for reading, from the beginning of what is there.
    ///
    /// # Errors
    /// When the database cannot be reached; see the variants for what cannot be read at all.
    async fn reader(&self) -> Result<Box<dyn Reader>, SourceError>;

    /// A connection for deleting and parking.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses.
    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError>;

    /// Rings `doorbell` whenever the database itself says that something was committed, and returns when it can hear nothing
    /// more. A hint: what it misses, polling finds. By default no database says anything.
    async fn listen(&self, _doorbell: &Doorbell) -> SourceError {
        std::future::pending().await
    }
}

impl std::fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name()).finish()
    }
}

/// Reads rows in their order.
#[async_trait]
pub trait Reader: Send {
    /// Makes rows that came from another database readable here, once, before the first read; how many there were.
    ///
    /// # Errors
    /// [`SourceError::Fenced`], or when it is not known to have been done. Doing it again does no harm.
    async fn adopt(&mut self, _epoch: Epoch) -> Result<u64, SourceError> {
        Ok(0)
    }

    /// The next rows that this reader has not handed out yet; none when there are none now. Returns at once.
    ///
    /// # Errors
    /// When the connection is lost: the reader is of no more use.
    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError>;

    /// Rows of one key from a position on, by position, whether or not they were handed out before: everything that is there now,
    /// as far as `want` allows. None when there are none. What [`Reader::read`] hands out next does not change by it.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError>;
}

/// Takes rows out of the outbox.
#[async_trait]
pub trait Writer: Send {
    /// Deletes rows by position and id; returns how many there were. A row that is gone already is fine.
    ///
    /// # Errors
    /// When it is not known to have been done. Doing it again does no harm.
    async fn delete(&mut self, rows: &[RowId]) -> Result<u64, SourceError>;

    /// Moves rows into `relay_archive`, in their order and in one transaction; returns how many there were. A row that is gone
    /// already leaves nothing there.
    ///
    /// # Errors
    /// [`SourceError::Fenced`] with nothing done, or when it is not known to have been done. Doing it again does no harm.
    async fn archive(&mut self, epoch: Epoch, rows: &[RowId]) -> Result<u64, SourceError>;

    /// Removes rows from `relay_archive` that have been there for longer than `keep`: of a bounded number behind the position
    /// `after`, in one transaction.
    ///
    /// # Errors
    /// As for [`Writer::archive`].
    async fn expire(&mut self, epoch: Epoch, keep: Duration, after: i64) -> Result<Expired, SourceError>;

    /// Moves rows into `relay_parked`, in one transaction. A row that is gone already is fine.
    ///
    /// # Errors
    /// [`SourceError::Fenced`] with nothing done, or when it is not known to have been done. Doing it again does no harm.
    async fn park(&mut self, epoch: Epoch, rows: &[Park]) -> Result<(), SourceError>;

    /// The poison rows of this source that hold a key, in the order of (`seq`, `id`), from the one after `after`: a page of
    /// them, and an empty one at the end. A key comes once for each of its poison rows.
    ///
    /// # Errors
    /// When the database fails.
    async fn held_keys(&mut self, after: Option<RowId>) -> Result<Vec<HeldKey>, SourceError>;

    /// Puts every parked row that nobody holds back into the outbox, at the position where it was: what an operator released,
    /// and what waited behind it. Returns how many there were. Only while nobody reads the outbox, because a reader may be
    /// past that position already.
    ///
    /// # Errors
    /// When the database fails, or [`SourceError::Fenced`]. What was put back by then is complete; doing it again goes on from
    /// there.
    async fn put_back(&mut self, epoch: Epoch) -> Result<u64, SourceError>;

    /// What operators did to the parked rows of this source.
    ///
    /// # Errors
    /// When the database fails.
    async fn released(&mut self) -> Result<Released, SourceError>;

    /// The oldest transaction that keeps deleted rows of the outbox on their pages, where the database says so and this role may
    /// see it. By default none is known.
    ///
    /// # Errors
    /// When the database fails.
    async fn oldest(&mut self) -> Result<Option<OldTransaction>, SourceError> {
        Ok(None)
    }
}

/// A transaction whose snapshot still sees what has been deleted since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldTransaction {
    /// Since when it has been open.
    pub age: std::time::Duration,
    /// Whose it is, for people.
    pub who: String,
}

/// A poison row and the key that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The row.
    pub row: RowId,
    /// The key: `aggregatetype`
    pub aggregatetype: String,
    /// The key: `aggregateid`
    pub aggregateid: String,
}

/// What operators did to parked rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Grows with every change by an operator.
    pub times: i64,
    /// Whether there are any parked rows.
    pub parked: bool,
}

/// Keys that parked rows may hold before the relay stops instead of filling its memory.
pub const HELD_KEYS_MAX: usize = 100_000;

/// Parked rows that one statement looks at or moves: small enough that its locks and its undo log are nothing, large enough
/// that the round trip is nothing either.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
const PARKED_PAGE: i64 = 1_000;

/// Archived rows that one step of their removal looks at, and that one transaction of a replay moves: as above.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
const ARCHIVE_PAGE: i64 = 1_000;

/// Where a walk along (`seq`, `id`) begins.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
const BEFORE_ALL: RowId = RowId { seq: i64::MIN, id: uuid::Uuid::nil() };

/// Milliseconds as the databases count them.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
