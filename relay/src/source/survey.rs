//! What the surveys of all databases have in common: see [`crate::survey`].

use super::holder;
use crate::survey::{Parked, Survey, pending};

/// How far apart the ends of the outbox are.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(super) const SPAN: &str =
    "SELECT coalesce((SELECT max(seq) FROM outbox) - (SELECT min(seq) FROM outbox) + 1, 0)";

/// What is parked of a source, by state.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(super) const PARKED: &str = "SELECT state, count(*) FROM relay_parked WHERE source = ? GROUP BY state";

/// How many keys are held by parked messages of a source.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(super) const BLOCKED: &str = "SELECT count(*) FROM (SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = ? AND state = 'poison' AND aggregateid IS NOT NULL) k";

/// What a database answered; ages in milliseconds.
pub(super) struct Answers {
    /// Rows of the outbox, counted up to one more than the bound.
    pub(super) counted: i64,
    /// Asked for only when there are more than that.
    pub(super) span: i64,
    pub(super) oldest: Option<i64>,
    pub(super) parked: Vec<(String, i64)>,
    pub(super) blocked_keys: i64,
    pub(super) oldest_transaction: Option<i64>,
}

impl Answers {
    /// All but whose the source is.
    pub(super) fn survey(self) -> Survey {
        let (pending, estimated) = pending(self.counted, self.span);
        Survey {
            pending,
            estimated,
            oldest: self.oldest.map(holder::millis),
            parked: Parked::of(self.parked),
            blocked_keys: self.blocked_keys,
            oldest_transaction: self.oldest_transaction.map(holder::millis),
            holder: holder::nobody(),
        }
    }
}
