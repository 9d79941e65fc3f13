//! What transactions of this process are doing: a list of the active ones with what has happened to them, counts, and a hook that
//! gets each record when it ends.
//!
//! For people who look, and for nothing else: no decision is made by it, and what recovery needs is in the log.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use metrics::{counter, histogram};
use serde::Serialize;
use serde_json::Value;

use super::measures;
use crate::{clock, limits};

/// The longest error that is counted by itself.
const ERROR_WORD_MAX: usize = 32;

/// Where a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MonitoredStatus {
    /// It runs.
    Started,
    /// It ended as it should.
    Completed,
    /// It did not.
    Failed,
}

/// Something that happened to a transaction, such as `db_operations_start`, `external_services_start`, `commit_start`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MonitoredEvent {
    /// When, by the local clock.
    pub at: DateTime<Utc>,
    /// What.
    pub event: String,
    /// What else is known of it.
    pub data: Value,
}

/// What is known of one transaction.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TransactionRecord {
    /// Its id.
    pub id: String,
    /// What kind of transaction it is: a name of the application's, such as `order`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the application said about it.
    pub metadata: Value,
    /// When it began, by the local clock.
    pub start_time: DateTime<Utc>,
    /// Where it is.
    pub status: MonitoredStatus,
    /// What happened to it, in order; at most [`limits::MONITORED_EVENTS_MAX`].
    pub events: Vec<MonitoredEvent>,
    /// Events that there was no room for.
    pub events_dropped: u64,
    /// How long it took; so far, while it runs.
    pub duration: Duration,
    /// Why it failed.
    pub error: Option<String>,
}

/// How many transactions of a kind there were since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionCounts {
    /// Begun.
    pub started: u64,
    /// Ended as they should.
    pub completed: u64,
    /// Ended otherwise.
    pub failed: u64,
    /// How long those that ended took together.
    pub duration: Duration,
}

type Archive = Arc<dyn Fn(&TransactionRecord) + Send + Sync>;

/// Watches the transactions of a process. Clones share it.
#[derive(Clone, Default)]
pub struct TransactionMonitor {
    seen: Arc<Mutex<Seen>>,
    archive: Option<Archive>,
}

#[derive(Default)]
struct Seen {
    active: BTreeMap<String, (Instant, TransactionRecord)>,
    counts: BTreeMap<String, TransactionCounts>,
}

impl TransactionMonitor {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `hook` with the record of each transaction that has ended. It runs where the transaction ends: it must be quick.
    #[must_use]
    pub fn archive(mut self, hook: impl Fn(&TransactionRecord) + Send + Sync + 'static) -> Self {
        self.archive = Some(Arc::new(hook));
        self
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Every change of it is one call.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction has begun. Beyond [`limits::MONITORED_TRANSACTIONS_MAX`] that run at once, it is counted and not listed.
    pub fn start_transaction(&self, id: &str, kind: &str, metadata: Value) {
        tracing::debug!(target: "transactions", transaction = id, kind, "distributed_txn.started");
        counter!(measures::STARTED, "type" => kind.to_owned()).increment(1);
        let record = TransactionRecord {
            id: id.to_owned(),
            kind: kind.to_owned(),
            metadata,
            start_time: clock::now(),
            status: MonitoredStatus::Started,
            events: Vec::new(),
            events_dropped: 0,
            duration: Duration::ZERO,
            error: None,
        };
        let mut seen = self.seen();
        seen.counts.entry(kind.to_owned()).or_default().started += 1;
        if seen.active.len() < limits::MONITORED_TRANSACTIONS_MAX {
            seen.active.insert(id.to_owned(), (Instant::now(), record));
        }
    }

    /// Something happened to it. Nothing is kept of a transaction that is not active.
    pub fn record_event(&self, id: &str, event: &str, data: Value) {
        tracing::debug!(target: "transactions", transaction = id, event);
        if let Some((_, record)) = self.seen().active.get_mut(id) {
            if record.events.len() < limits::MONITORED_EVENTS_MAX {
                record.events.push(MonitoredEvent { at: clock::now(), event: event.to_owned(), data });
            } else {
                record.events_dropped += 1;
            }
        }
    }

    /// It has ended: without an error, or with this one. Returns its record, which is archived and no longer active.
    pub fn complete_transaction(&self, id: &str, error: Option<&str>) -> Option<TransactionRecord> {
        let record = {
            let mut seen = self.seen();
            let (began, mut record) = seen.active.remove(id)?;
            record.duration = began.elapsed();
            record.error = error.map(str::to_owned);
            let counts = seen.counts.entry(record.kind.clone()).or_default();
            counts.duration += record.duration;
            match error {
                None => counts.completed += 1,
                Some(_) => counts.failed += 1,
            }
            record.status =
                if error.is_none() { MonitoredStatus::Completed } else { MonitoredStatus::Failed };
            record
        };
        let (kind, duration) = (&*record.kind, record.duration);
        let labels = [("type", kind.to_owned()), ("success", error.is_none().to_string())];
        counter!(measures::COMPLETED, &labels).increment(1);
        histogram!(measures::DURATION, &labels).record(duration);
        if let Some(error) = error {
            // A word can be a label; a text would be a time series of its own.
            let word = error.len() <= ERROR_WORD_MAX && !error.contains(char::is_whitespace);
            let error = if word { error } else { "other" };
            counter!(measures::FAILED, "type" => kind.to_owned(), "error" => error.to_owned()).increment(1);
        }
        match error {
            None => {
                tracing::debug!(target: "transactions", transaction = id, kind, ?duration, "distributed_txn.completed");
            }
            Some(error) => {
                tracing::warn!(target: "transactions", transaction = id, kind, ?duration, error, "distributed_txn.failed");
            }
        }
        if let Some(archive) = &self.archive {
            archive(&record);
        }
        Some(record)
    }

    /// The transactions that run, by id.
    #[must_use]
    pub fn active_transactions(&self) -> Vec<TransactionRecord> {
        let seen = self.seen();
        let so_far = |(began, record): &(Instant, TransactionRecord)| TransactionRecord {
            duration: began.elapsed(),
            ..record.clone()
        };
        seen.active.values().map(so_far).collect()
    }

    /// How many there were, of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, TransactionCounts> {
        self.seen().counts.clone()
    }
}

impl fmt::Debug for TransactionMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionMonitor")
            .field("active", &self.seen().active.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transaction_is_active_until_it_is_archived() {
        let archived = Arc::new(Mutex::new(Vec::new()));
        let hook = Arc::clone(&archived);
        let monitor =
            TransactionMonitor::new().archive(move |record| hook.lock().unwrap().push(record.clone()));
        monitor.start_transaction("1", "order", json!({"order": 7}));
        monitor.start_transaction("2", "order", Value::Null);
        monitor.record_event("1", "db_operations_start", json!({}));
        monitor.record_event("3", "nobody", json!({}));
        let active = monitor.active_transactions();
        assert_eq!(active.iter().map(|record| &*record.id).collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(active[0].events[0].event, "db_operations_start");

        let done = monitor.complete_transaction("1", None).unwrap();
        assert_eq!((done.status, done.error.as_deref()), (MonitoredStatus::Completed, None));
        assert_eq!(serde_json::to_value(&done).unwrap()["type"], "order");
        assert!(monitor.complete_transaction("1", None).is_none(), "once");
        monitor.complete_transaction("2", Some("no answer"));
        assert!(monitor.active_transactions().is_empty());
        let archived = archived.lock().unwrap();
        assert_eq!((archived.len(), archived[1].error.as_deref()), (2, Some("no answer")));
        let counts = monitor.counts()["order"];
        assert_eq!((counts.started, counts.completed, counts.failed), (2, 1, 1));
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let monitor = TransactionMonitor::new();
        for n in 0..limits::MONITORED_TRANSACTIONS_MAX + 1 {
            monitor.start_transaction(&n.to_string(), "order", Value::Null);
        }
        assert_eq!(monitor.active_transactions().len(), limits::MONITORED_TRANSACTIONS_MAX);
        assert_eq!(monitor.counts()["order"].started as usize, limits::MONITORED_TRANSACTIONS_MAX + 1);
        for _ in 0..limits::MONITORED_EVENTS_MAX + 2 {
            monitor.record_event("0", "again", Value::Null);
        }
        let record = monitor.complete_transaction("0", None).unwrap();
        assert_eq!((record.events.len(), record.events_dropped), (limits::MONITORED_EVENTS_MAX, 2));
    }
}
