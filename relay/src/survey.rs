//! What the database of a source says about it: how much waits, how old it is, what is parked, whose it is.
//!
//! Taken by `barid-relay status` and, now and then, for `/metrics` and the admin API; it needs no running relay. It is cheap on
//! purpose: what could be large is counted up to a bound and estimated beyond, and everything has a bound in time.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lease::Holder;

/// Rows of an outbox that are counted one by one. Beyond, the span of their positions is the estimate.
pub const COUNTED_ROWS_MAX: i64 = 100_000;

/// How long a survey may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a database said about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Rows in the outbox.
    pub pending: i64,
    /// Whether `pending` is an estimate: from [`COUNTED_ROWS_MAX`] on, and never too small by more than that.
    pub estimated: bool,
    /// How old the first row in line is, by the database's clock; none when nothing waits.
    pub oldest: Option<Duration>,
    /// Parked messages by state.
    pub parked: Parked,
    /// Keys that a poison message holds.
    pub blocked_keys: i64,
    /// How long the oldest transaction in this database has been open: what it can still see, nobody can clean up. None where the
    /// role may not know (PostgreSQL: `pg_read_all_stats`, MariaDB and MySQL: PROCESS), and on SQLite.
    pub oldest_transaction: Option<Duration>,
    /// Whose the source is.
    pub holder: Holder,
}

/// Parked messages by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// They cannot be delivered, and hold their keys.
    pub poison: i64,
    /// They wait behind a poison message of their key.
    pub behind: i64,
    /// They cannot be delivered, and hold nobody back.
    pub skipped: i64,
}

impl Parked {
    /// From rows of state and number. A state that this program does not know counts nowhere.
    #[must_use]
    pub fn of(states: impl IntoIterator<Item = (String, i64)>) -> Self {
        let mut parked = Self::default();
        for (state, messages) in states {
            match state.as_str() {
                "poison" => parked.poison = messages,
                "behind" => parked.behind = messages,
                "skipped" => parked.skipped = messages,
                _ => {}
            }
        }
        parked
    }

    /// By the names of the states.
    #[must_use]
    pub fn by_state(&self) -> [(&'static str, i64); 3] {
        [("poison", self.poison), ("behind", self.behind), ("skipped", self.skipped)]
    }
}

/// The number of rows from what was counted up to one more than the bound, and from the span of positions.
#[must_use]
pub fn pending(counted: i64, span: i64) -> (i64, bool) {
    if counted <= COUNTED_ROWS_MAX { (counted, false) } else { (span.max(counted), true) }
}

/// A survey as programs read it: the same on the command line and over HTTP.
#[must_use]
pub fn json(source: &str, survey: &Survey) -> Value {
    let Survey { pending, estimated, oldest, parked, blocked_keys, oldest_transaction, holder } = survey;
    let lease = match lease_state(holder) {
        "never" => json!({"state": "never", "epoch": 0}),
        state => json!({
            "state": state, "owner": holder.owner, "epoch": holder.epoch.0, "until": holder.until,
            "left_seconds": holder.left.as_secs_f64(),
        }),
    };
    json!({
        "source": source, "pending": pending, "pending_estimated": estimated,
        "oldest_pending_seconds": oldest.map(|age| age.as_secs_f64()),
        "parked": {"poison": parked.poison, "behind": parked.behind, "skipped": parked.skipped},
        "blocked_keys": blocked_keys,
        "oldest_transaction_seconds": oldest_transaction.map(|age| age.as_secs_f64()),
        "lease": lease,
    })
}

/// `held`, `expired` when its owner did not renew it, `released`, or `never` before the first relay.
#[must_use]
pub fn lease_state(holder: &Holder) -> &'static str {
    match () {
        () if holder.epoch.0 == 0 => "never",
        () if holder.released() => "released",
        () if holder.left.is_zero() => "expired",
        () => "held",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_few_is_counted_and_what_is_many_is_estimated() {
        assert_eq!(pending(0, 0), (0, false));
        assert_eq!(pending(7, 90_000_000), (7, false), "gaps do not count");
        assert_eq!(pending(COUNTED_ROWS_MAX + 1, 90_000_000), (90_000_000, true));
        assert_eq!(
            pending(COUNTED_ROWS_MAX + 1, 3),
            (COUNTED_ROWS_MAX + 1, true),
            "positions put back by hand"
        );
    }
}
