//! What became of the promises, counted from what was committed and what the broker got. Pure.
//!
//! A run whose faults cannot be proven has shown nothing, and fails.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use uuid::Uuid;

use crate::load::Journal;
use crate::outbox::Posted;
use crate::tape::Copy;

/// Something that was done to the relay or to what it works with.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was done.
    pub what: String,
    /// What shows that it happened: a line of a log, a count, an exit status. Never empty.
    pub evidence: String,
}

impl Fault {
    /// A fault, and what shows that it happened.
    #[must_use]
    pub fn new(what: impl Into<String>, evidence: impl fmt::Display) -> Self {
        Self { what: what.into(), evidence: evidence.to_string() }
    }
}

/// What was found in the end.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What the database says was committed.
    pub committed: Vec<(Uuid, Posted)>,
    /// What the producers know.
    pub journal: Journal,
    /// What the broker got.
    pub tape: Vec<Copy<Posted>>,
    /// Rows that the relay gave up, with a reason.
    pub parked: Vec<Uuid>,
    /// Rows that are still in the outbox.
    pub left: usize,
    /// Rows that one of the faults can leave in doubt; none where the relay lived through it and remembers.
    pub window: usize,
    /// What was done.
    pub faults: Vec<Fault>,
    /// How long the outbox took to become empty once the faults were over.
    pub drained: Duration,
}

/// The counts. What is named after a promise must be zero.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Rows that the database says were committed.
    pub committed: usize,
    /// Rows that were rolled back.
    pub rolled_back: usize,
    /// Rows whose COMMIT was not answered.
    pub unknown: usize,
    /// Rows that were parked.
    pub parked: usize,
    /// Copies that the broker got beyond the first of each message.
    pub duplicates: usize,
    /// How many of those the faults explain.
    pub duplicates_max: usize,
    /// L: committed, and neither delivered nor parked.
    pub lost: usize,
    /// P: delivered, and not committed.
    pub phantom: usize,
    /// D: copies of one message beyond one a fault.
    pub unexplained: usize,
    /// O: first deliveries that came before an earlier one of their key.
    pub order_breaks: usize,
    /// R: rows that are still in the outbox.
    pub left: usize,
    /// The database's own promise: rows whose COMMIT was answered and that are not there, or the other way round.
    pub forgotten: usize,
    /// How long the outbox took to become empty.
    pub drained: Duration,
    /// What was done.
    pub faults: Vec<Fault>,
}

impl Evidence {
    /// Counts.
    #[must_use]
    pub fn ledger(self) -> Ledger {
        let committed: HashSet<Uuid> = self.committed.iter().map(|(id, _)| *id).collect();
        let parked: HashSet<Uuid> = self.parked.iter().copied().collect();
        let mut copies: HashMap<Uuid, usize> = HashMap::new();
        for copy in &self.tape {
            *copies.entry(copy.id).or_default() += 1;
        }
        let gone = |id: &&Uuid| !copies.contains_key(*id) && !parked.contains(*id);
        Ledger {
            committed: committed.len(),
            rolled_back: self.journal.rolled_back.len(),
            unknown: self.journal.unknown.len(),
            parked: parked.len(),
            duplicates: self.tape.len() - copies.len(),
            duplicates_max: self.window * self.faults.len(),
            lost: committed.iter().filter(gone).count(),
            phantom: copies.keys().filter(|id| !committed.contains(id)).count(),
            unexplained: copies.values().map(|count| (count - 1).saturating_sub(self.faults.len())).sum(),
            order_breaks: order_breaks(self.tape.iter().map(|copy| (copy.id, copy.event.key, copy.event.n))),
            left: self.left,
            forgotten: self.journal.committed.difference(&committed).count()
                + self.journal.rolled_back.intersection(&committed).count(),
            drained: self.drained,
            faults: self.faults,
        }
    }
}

/// First deliveries that came before an earlier one of their key: `(message, key, place in the key's order)`.
pub fn order_breaks<K: Hash + Eq>(deliveries: impl Iterator<Item = (Uuid, K, i64)>) -> usize {
    let (mut seen, mut newest, mut breaks) = (HashSet::new(), HashMap::new(), 0);
    for (id, key, n) in deliveries {
        if seen.insert(id) {
            let newest = newest.entry(key).or_insert(i64::MIN);
            breaks += usize::from(n <= *newest);
            *newest = n.max(*newest);
        }
    }
    breaks
}

impl Ledger {
    /// Every promise, that there was something to keep them against, and that the faults happened.
    ///
    /// # Panics
    /// When one of them does not hold, with all counts.
    pub fn assert_promises(&self) {
        let kept = [self.lost, self.phantom, self.unexplained, self.order_breaks, self.left, self.forgotten];
        assert_eq!(kept, [0; 6], "L, P, D, O, R, and the database\n{self}");
        assert!(self.duplicates <= self.duplicates_max, "D: more copies than the faults explain\n{self}");
        assert!(self.committed > 0 && self.rolled_back > 0, "nothing to keep a promise against\n{self}");
        assert!(!self.faults.is_empty(), "there was no fault\n{self}");
        for fault in &self.faults {
            assert!(
                !fault.evidence.trim().is_empty(),
                "{}: nothing shows that it happened\n{self}",
                fault.what
            );
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "fault: {}: {}", fault.what, fault.evidence)?;
        }
        write!(
            f,
            "ledger: committed={} rolled_back={} unknown={} parked={} duplicates={} (at most {}) lost={} phantom={} \
             unexplained={} order_breaks={} left={} forgotten={} drained after {:?}",
            self.committed,
            self.rolled_back,
            self.unknown,
            self.parked,
            self.duplicates,
            self.duplicates_max,
            self.lost,
            self.phantom,
            self.unexplained,
            self.order_breaks,
            self.left,
            self.forgotten,
            self.drained
        )
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
