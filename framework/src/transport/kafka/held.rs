//! Rows that cannot be sent yet, in the order in which they were submitted. Pure.
//!
//! A row waits while nobody knows whether its topic exists, or behind a row of the same ordering key that waits: the order
//! of a key holds across topics, and other keys flow.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::transport::OutgoingRow;

/// A row that waits, and its slot in the table of what is in flight.
pub(super) struct Held {
    pub(super) slot: u32,
    pub(super) row: OutgoingRow,
}

/// What [`Holding::refuse`] took out.
pub(super) struct Refused {
    /// The rows that go to the topic.
    pub(super) rows: Vec<Held>,
    /// Rows that go elsewhere and may not pass one of those.
    pub(super) behind: Vec<Held>,
}

/// The waiting rows.
#[derive(Default)]
pub(super) struct Holding {
    rows: VecDeque<Held>,
    keys: HashMap<(String, String), usize>,
}

impl Holding {
    /// Whether a row of the same key waits already.
    pub(super) fn blocks(&self, row: &OutgoingRow) -> bool {
        !self.rows.is_empty() && key_of(row).is_some_and(|key| self.keys.contains_key(&key))
    }

    /// Puts a row at the end.
    pub(super) fn push(&mut self, slot: u32, row: OutgoingRow) {
        if let Some(key) = key_of(&row) {
            *self.keys.entry(key).or_default() += 1;
        }
        self.rows.push_back(Held { slot, row });
    }

    /// The topics that rows wait to be sent to.
    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|held| held.row.destination.name())
    }

    /// Takes out every row that goes to `topic`, and every row behind one of them whose key it shares.
    pub(super) fn refuse(&mut self, topic: &str) -> Refused {
        let mut keys = HashSet::new();
        let all = self.take(|row, _| {
            let refused = row.destination.name() == topic;
            let key = key_of(row);
            let behind = key.as_ref().is_some_and(|key| keys.contains(key));
            if refused {
                keys.extend(key);
            }
            refused || behind
        });
        let (rows, behind) = all.into_iter().partition(|held| held.row.destination.name() == topic);
        Refused { rows, behind }
    }

    /// Takes out, in order, every row whose topic is `known` and whose key has no earlier row that stays.
    pub(super) fn release(&mut self, known: impl Fn(&str) -> bool) -> Vec<Held> {
        self.take(|row, blocked| !blocked && known(row.destination.name()))
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> Vec<Held> {
        self.take(|_, _| true)
    }

    fn take(&mut self, mut goes: impl FnMut(&OutgoingRow, bool) -> bool) -> Vec<Held> {
        let mut out = Vec::new();
        let mut staying: HashSet<(String, String)> = HashSet::new();
        for held in std::mem::take(&mut self.rows) {
            let key = key_of(&held.row);
            let blocked = key.as_ref().is_some_and(|key| staying.contains(key));
            if goes(&held.row, blocked) {
                if let Some(key) = key {
                    self.forget(&key);
                }
                out.push(held);
            } else {
                staying.extend(key);
                self.rows.push_back(held);
            }
        }
        out
    }

    fn forget(&mut self, key: &(String, String)) {
        if let Some(count) = self.keys.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(key);
            }
        }
    }
}

fn key_of(row: &OutgoingRow) -> Option<(String, String)> {
    row.aggregateid.as_ref().map(|id| (row.aggregatetype.clone(), id.clone()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{Destination, Headers};

    fn row(topic: &str, key: Option<&str>) -> OutgoingRow {
        OutgoingRow {
            seq: 0,
            id: Uuid::nil(),
            destination: Destination::topic(topic).unwrap(),
            aggregatetype: "order".to_owned(),
            aggregateid: key.map(str::to_owned),
            name: "n".to_owned(),
            payload: None,
            headers: Headers::new(),
            tracingspancontext: None,
            wire: None,
        }
    }

    fn slots(rows: &[Held]) -> Vec<u32> {
        rows.iter().map(|held| held.slot).collect()
    }

    fn holding(rows: &[(&str, Option<&str>)]) -> Holding {
        let mut holding = Holding::default();
        for (slot, (topic, key)) in (0..).zip(rows) {
            holding.push(slot, row(topic, *key));
        }
        holding
    }

    #[test]
    fn a_key_waits_across_topics_and_other_keys_do_not() {
        let mut all = holding(&[("new", Some("a")), ("old", Some("a")), ("old", Some("b")), ("old", None)]);
        assert!(all.blocks(&row("old", Some("a"))) && !all.blocks(&row("old", None)));
        assert_eq!(slots(&all.release(|topic| topic == "old")), [2, 3]);
        assert!(!all.blocks(&row("old", Some("b"))));
        assert_eq!(slots(&all.release(|_| true)), [0, 1]);
    }

    #[test]
    fn a_refused_topic_takes_what_waited_behind_it() {
        let mut all = holding(&[
            ("good", Some("a")),
            ("bad", Some("a")),
            ("good", Some("a")),
            ("good", Some("b")),
            ("bad", None),
        ]);
        let refused = all.refuse("bad");
        assert_eq!((slots(&refused.rows), slots(&refused.behind)), (vec![1, 4], vec![2]));
        assert_eq!(slots(&all.release(|topic| topic == "good")), [0, 3]);
        assert!(all.drain().is_empty());
    }
}
