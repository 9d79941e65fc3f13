//! What the three databases do for the queue, as one trait, and the values that go in and out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::{doorbell, error};
use crate::{
    limits::CALL_TIMEOUT,
    store::{AnyPool, contention},
    transport::{Outcome, OutgoingRow, TransportError},
};

/// The statements of the queue. Each runs by itself: when its future is dropped it either happened or did not.
#[async_trait]
pub(super) trait Statements: Send + Sync {
    /// Makes the queue and its subscriptions when they do not exist.
    async fn declare(&self, queue: &str, topics: &[String]) -> Result<(), sqlx::Error>;

    /// Removes one subscription, if it is there.
    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), sqlx::Error>;

    /// Which of `queues` are declared, and who subscribed to `topics`.
    async fn targets(&self, queues: &[String], topics: &[String]) -> Result<Targets, sqlx::Error>;

    /// Writes all rows in one transaction, in this order, or none.
    async fn insert(&self, rows: &[NewRow]) -> Result<(), Outcome>;

    /// Which rows are due, as [`Heads`] wants them: the first `rows_max` of those without a key, and the first row of each of
    /// the next [`KEYS_MAX`] keys after `after_key`, whether it is due or not. It only reads, and from one snapshot.
    async fn due(&self, queue: &str, after_key: &str, rows_max: i64) -> Result<Vec<Head>, sqlx::Error>;

    /// Claims those of `seqs` that are still due, as `claim`, for `lease`: another consumer may have been quicker.
    async fn take(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<Vec<Claimed>, sqlx::Error>;

    /// Makes the claim end one `lease` from now for those of `seqs` that it still holds.
    async fn renew(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<(), sqlx::Error>;

    /// Ends the claim for those of `seqs` that it still holds, as if they had never been handed out.
    async fn give_back(&self, claim: Uuid, seqs: &[i64]) -> Result<(), sqlx::Error>;

    /// Deletes the rows of those claims that still hold theirs, and returns the rows that are gone.
    async fn ack(&self, claims: &[Claim]) -> Result<Vec<i64>, sqlx::Error>;

    /// Ends the claim; the row is due in `after`. `false`: the claim does not hold it any more.
    async fn nack(&self, claim: Uuid, seq: i64, after: Duration) -> Result<bool, sqlx::Error>;
}

/// One claimed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// The claim that holds it. New for each time that rows are claimed.
    pub(super) id: Uuid,
    /// The row.
    pub(super) seq: i64,
}

/// Where the rows of a batch can go.
#[derive(Debug, Default)]
pub(super) struct Targets {
    declared: HashSet<String>,
    subscribers: HashMap<String, Vec<String>>,
}

impl Targets {
    /// From pairs of topic and queue; a pair without topic says that the queue is declared.
    pub(super) fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        let mut targets = Self::default();
        for (topic, queue) in pairs {
            if topic.is_empty() {
                targets.declared.insert(queue);
            } else {
                targets.subscribers.entry(topic).or_default().push(queue);
            }
        }
        targets
    }

    pub(super) fn is_declared(&self, queue: &str) -> bool {
        self.declared.contains(queue)
    }

    pub(super) fn subscribers(&self, topic: &str) -> &[String] {
        self.subscribers.get(topic).map_or(&[], Vec::as_slice)
    }
}

/// A row of `queue_message` that is not written yet.
#[derive(Clone, Debug)]
pub(super) struct NewRow {
    pub(super) queue: String,
    pub(super) id: Uuid,
    pub(super) ordering_key: Option<String>,
    pub(super) headers: String,
    pub(super) body: Bytes,
}

impl NewRow {
    /// The row that `queue` gets of `row`, with the headers as text. A tombstone becomes an empty body.
    pub(super) fn new(queue: &str, row: &OutgoingRow, headers: String) -> Self {
        Self {
            queue: queue.to_owned(),
            id: row.id,
            ordering_key: row.aggregateid.as_deref().map(|id| ordering_key(&row.aggregatetype, id)),
            headers,
            body: row.payload.clone().unwrap_or_default(),
        }
    }
}

/// A row that was claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) seq: i64,
    /// How often it was handed out, this time included.
    pub(super) deliveries: i32,
    pub(super) headers: String,
    pub(super) body: Bytes,
}

impl From<(i64, i32, String, Vec<u8>)> for Claimed {
    fn from((seq, deliveries, headers, body): (i64, i32, String, Vec<u8>)) -> Self {
        Self { seq, deliveries, headers, body: body.into() }
    }
}

/// How many keys one look at a queue goes through. The next look goes on behind them.
pub(super) const KEYS_MAX: i64 = 256;

/// A row that may be claimed: its number, unless it is not due, and its key, unless it has none.
pub(super) type Head = (Option<i64>, Option<String>);

/// What one look at a queue found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// What to claim: the oldest rows that are due.
    pub(super) seqs: Vec<i64>,
    /// Where the next look goes on; empty when it begins again.
    pub(super) after_key: String,
}

impl Heads {
    /// Chooses up to `room` rows. It goes on to other keys even when it leaves some that are due: their turn comes again, and
    /// keys that always have a next row must not keep the others away.
    pub(super) fn choose(found: Vec<Head>, room: usize) -> Self {
        let keys = || found.iter().filter_map(|(_, key)| key.as_deref());
        let more = i64::try_from(keys().count()).is_ok_and(|keys| keys >= KEYS_MAX);
        let after_key = keys().max().filter(|_| more).unwrap_or_default().to_owned();
        let mut seqs: Vec<i64> = found.into_iter().filter_map(|(seq, _)| seq).collect();
        seqs.sort_unstable();
        seqs.truncate(room);
        Self { seqs, after_key }
    }
}

/// Longest ordering key that is stored as it is, in bytes: the column and its index have limits on MariaDB and MySQL.
const ORDERING_KEY_BYTES_MAX: usize = 250;

/// Both halves of the ordering key as one text. Long ones are replaced by their hash; that two keys might share a hash would
/// only make one wait for the other.
fn ordering_key(aggregatetype: &str, aggregateid: &str) -> String {
    let key = format!("{aggregatetype}/{aggregateid}");
    if key.len() <= ORDERING_KEY_BYTES_MAX {
        return key;
    }
    format!("#{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()).simple())
}

/// A database, and its name for errors and its bell.
pub(super) struct Bound {
    statements: Box<dyn Statements>,
    place: String,
    bell: doorbell::Bell,
}

impl Bound {
    pub(super) fn new(pool: AnyPool) -> Self {
        let place = pool.place();
        let statements: Box<dyn Statements> = match pool {
            #[cfg(feature = "postgres")]
            AnyPool::Postgres(pool) => Box::new(super::postgres::Postgres(pool)),
            #[cfg(feature = "mysql")]
            AnyPool::MySql(pool) => Box::new(super::mysql::MySql(pool)),
            #[cfg(feature = "sqlite")]
            AnyPool::Sqlite(pool) => Box::new(super::sqlite::Sqlite(pool)),
        };
        Self { statements, bell: doorbell::bell(&place), place }
    }

    pub(super) fn statements(&self) -> &dyn Statements {
        self.statements.as_ref()
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn bell(&self) -> &doorbell::Bell {
        &self.bell
    }

    /// Runs one of the statements within the bound of every call.
    pub(super) async fn call<T, F: Future<Output = Result<T, sqlx::Error>>>(
        &self,
        call: &'static str,
        statement: impl Fn() -> F,
    ) -> Result<T, TransportError> {
        self.run(statement).await.map_err(|error| self.error(call, error.as_ref()))
    }

    /// The same, with an error that can be told to several. `None`: there was no answer in time. A victim of a deadlock is
    /// run again at once.
    pub(super) async fn run<T, F: Future<Output = Result<T, sqlx::Error>>>(
        &self,
        statement: impl Fn() -> F,
    ) -> Result<T, Option<sqlx::Error>> {
        contention::run(statement).await
    }

    /// What [`Bound::run`] failed with, for the caller.
    pub(super) fn error(&self, call: &'static str, error: Option<&sqlx::Error>) -> TransportError {
        match error {
            Some(error) => error::failed(&self.place, error),
            None => TransportError::Timeout { broker: self.place.clone(), call, after: CALL_TIMEOUT },
        }
    }
}

/// `duration` in microseconds, as far as a database can add it to a time: at most ten years.
pub(super) fn micros(duration: Duration) -> i64 {
    const MOST: i64 = 10 * 366 * 86_400 * 1_000_000;
    i64::try_from(duration.as_micros()).unwrap_or(MOST).min(MOST)
}

/// The database that both halves of the transport share.
pub(super) type Shared = Arc<Bound>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_fits_and_stays_itself() {
        assert_eq!(ordering_key("orders", "7"), "orders/7");
        let long = "x".repeat(5_000);
        let key = ordering_key("orders", &long);
        assert!(key.len() <= ORDERING_KEY_BYTES_MAX);
        assert_eq!(key, ordering_key("orders", &long));
        assert_ne!(key, ordering_key("orders", &format!("{long}y")));
    }

    #[test]
    fn a_look_takes_the_oldest_and_goes_on_behind_the_last_key() {
        let head = |seq: Option<i64>, key: usize| (seq, Some(format!("k{key:03}")));
        let few = vec![(Some(5), None), head(Some(3), 1), head(None, 2), (Some(9), None)];
        assert_eq!(Heads::choose(few, 2), Heads { seqs: vec![3, 5], after_key: String::new() });

        let many: Vec<Head> =
            (0..KEYS_MAX).map(|n| head((n % 2 == 0).then_some(1_000 - n), n as usize)).collect();
        let chosen = Heads::choose(many, 3);
        assert_eq!(chosen, Heads { seqs: vec![746, 748, 750], after_key: "k255".to_owned() });
    }

    #[test]
    fn no_duration_is_too_long() {
        assert_eq!(micros(Duration::from_millis(1)), 1_000);
        assert_eq!(micros(Duration::MAX), micros(Duration::from_secs(10 * 366 * 86_400)));
    }

    #[test]
    fn targets_come_from_pairs() {
        let pairs = [("", "a"), ("t", "b"), ("t", "c")];
        let pairs = pairs.iter().map(|(topic, queue)| ((*topic).to_owned(), (*queue).to_owned())).collect();
        let targets = Targets::from_pairs(pairs);
        assert!(targets.is_declared("a") && !targets.is_declared("b"));
        assert_eq!(targets.subscribers("t"), ["b", "c"]);
        assert!(targets.subscribers("nobody").is_empty());
    }
}
