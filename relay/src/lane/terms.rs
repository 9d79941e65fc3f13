//! The words that the lanes and their callers share.

use std::time::Instant;

use std::hash::{Hash, Hasher};

use barid::transport::OutgoingRow;
use serde::Deserialize;
use uuid::Uuid;

/// What a row is known by. The position alone is not enough: a fail-over that lost transactions hands it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId {
    /// The position in the outbox.
    pub seq: i64,
    /// The message id.
    pub id: Uuid,
}

impl Hash for RowId {
    /// The position alone tells nearly all rows apart, and every row is looked up several times.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.seq.hash(state);
    }
}

impl RowId {
    /// What `row` is known by.
    #[must_use]
    pub fn of(row: &OutgoingRow) -> Self {
        Self { seq: row.seq, id: row.id }
    }
}

/// What a route promises about the order of the rows of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One unconfirmed row a key; other keys fill the window.
    Strict,
    /// Many unconfirmed rows a key. After a negative answer the key stops, drains, and resumes at the failed row; rows that
    /// were behind it in flight may have arrived before it, which [`Stats::breaks`] counts.
    Pipelined,
    /// No order, and a parked row holds nobody back.
    None,
}

/// What becomes of a row of this route that can never be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// It is parked, and the later rows of its key behind it, until somebody decides: what keeps the order (O).
    #[default]
    BlockKey,
    /// It is parked and its key goes on without it.
    Skip,
    /// The relay stops. The row and everything after it stay in the outbox.
    Halt,
}

impl Poison {
    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockKey => "block_key",
            Self::Skip => "skip",
            Self::Halt => "halt",
        }
    }
}

/// Where a row goes and in which order: the answer of the routes for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the sink.
    pub sink: usize,
    /// The order that its route asks for.
    pub order: Order,
    /// What a row does that can never be delivered.
    pub poison: Poison,
}

/// What a row carries for whoever counts: the lanes hand it back and never look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// When the row was written, on the local monotonic clock; none where that is not known.
    pub since: Option<Instant>,
    /// Under which label it is counted.
    pub label: u16,
}

/// How much may be in flight on one sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows that are published and not yet answered.
    pub rows_max: usize,
    /// Bytes of their payloads. One row is always let through, however large.
    pub bytes_max: usize,
}

/// What [`Lanes::push`](super::Lanes::push) did with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is queued.
    New,
    /// It was read before and is not yet deleted: nothing to do.
    Known,
    /// Its key is held by a parked row: it will be parked behind it.
    Behind,
    /// Its key has no room: it stays in the outbox, and [`Lanes::again`](super::Lanes::again) will ask for it.
    LeftOut,
}

/// Why a row is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkState {
    /// It cannot be delivered.
    Poison,
    /// It waits behind a poison row of its key.
    Behind,
    /// It cannot be delivered, and nobody waits for it.
    Skipped,
}

impl ParkState {
    /// As the column `state` of `relay_parked` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Behind => "behind",
            Self::Skipped => "skipped",
        }
    }
}

/// A row to be moved out of the outbox into `relay_parked`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// Which row.
    pub row: RowId,
    /// Why.
    pub state: ParkState,
    /// How often it was published without success.
    pub attempts: u32,
    /// What the sink or the router said.
    pub reason: String,
    /// Which sink said it; none when it was refused before it came to one.
    pub sink: Option<usize>,
    /// What such rows are grouped by. The lanes leave it to the relay, which knows the sinks by name.
    pub fingerprint: Option<String>,
}

/// Why the lanes can go no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// The row that was the last straw.
    pub row: RowId,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// A key by its hash. Two keys with one hash (one chance in 2^64 a pair) would wait for each other; neither loses order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub(super) u64);

/// Counters since the lanes were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows that a sink confirmed.
    pub confirmed: u64,
    /// Rows that have left the outbox: deleted because they were confirmed, or parked.
    pub left: u64,
    /// Negative or lost answers that led to another attempt.
    pub retried: u64,
    /// Rows parked as poison.
    pub poison: u64,
    /// Rows parked behind a poison row.
    pub behind: u64,
    /// Rows parked without holding anybody back.
    pub skipped: u64,
    /// Rows parked because they appeared where nothing could appear any more; they count as poison too.
    pub late: u64,
    /// Parked rows that were put back into the outbox, because an operator released them or what they waited behind.
    pub released: u64,
    /// Rows of a pipelined key that were confirmed before an earlier row of that key.
    pub breaks: u64,
    /// Times that a row was left in the outbox because its key waits and had no room. It is read again later.
    pub left_out: u64,
}
