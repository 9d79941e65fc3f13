//! Lets one message of a key through at a time, without touching the others. Pure.
//!
//! The consumer asks [`Gate::admit`] for every keyed message it reads and tells [`Gate::release`] when one is done. What
//! waits comes out in the order in which it went in.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Who is busy, and who waits behind whom.
#[derive(Debug)]
pub(super) struct Gate<K, T> {
    busy: HashMap<K, VecDeque<T>>,
    waiting: usize,
}

impl<K: Eq + Hash + Clone, T> Gate<K, T> {
    pub(super) fn new() -> Self {
        Self { busy: HashMap::new(), waiting: 0 }
    }

    /// Gives `item` back when its key is free, and makes the key busy; keeps it otherwise.
    pub(super) fn admit(&mut self, key: &K, item: T) -> Option<T> {
        if let Some(queue) = self.busy.get_mut(key) {
            queue.push_back(item);
            self.waiting += 1;
            return None;
        }
        self.busy.insert(key.clone(), VecDeque::new());
        Some(item)
    }

    /// The message of `key` that was let through is done: the next one, whose turn it is now.
    pub(super) fn release(&mut self, key: &K) -> Option<T> {
        let next = self.busy.get_mut(key)?.pop_front();
        if next.is_some() {
            self.waiting -= 1;
        } else {
            self.busy.remove(key);
        }
        next
    }

    /// Forgets every key that `keep` does not hold, with what waits behind it.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.busy.retain(|key, _| keep(key));
        self.waiting = self.busy.values().map(VecDeque::len).sum();
    }

    /// How many wait behind a busy key.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_busy_key_holds_its_own_messages_and_no_others() {
        let mut gate = Gate::new();
        assert_eq!(gate.admit(&"a", 1), Some(1));
        assert_eq!(gate.admit(&"a", 2), None);
        assert_eq!(gate.admit(&"b", 3), Some(3));
        assert_eq!(gate.waiting(), 1);
        assert_eq!(gate.release(&"a"), Some(2));
        assert_eq!(gate.release(&"a"), None);
        assert_eq!(gate.admit(&"a", 4), Some(4));
    }

    #[test]
    fn a_forgotten_key_takes_its_waiters_with_it() {
        let mut gate = Gate::new();
        assert_eq!(gate.admit(&"a", 1), Some(1));
        assert_eq!(gate.admit(&"a", 2), None);
        gate.retain(|key| *key != "a");
        assert_eq!((gate.waiting(), gate.release(&"a")), (0, None));
    }

    proptest! {
        /// Whatever the interleaving: per key everything comes out once, in order, and never two at a time.
        #[test]
        fn one_at_a_time_in_order(steps in proptest::collection::vec((0u8..4, any::<bool>()), 1..200)) {
            let mut gate = Gate::new();
            let mut busy: HashMap<u8, usize> = HashMap::new();
            let mut out: HashMap<u8, Vec<usize>> = HashMap::new();
            let mut put: HashMap<u8, Vec<usize>> = HashMap::new();
            for (number, (key, admit)) in steps.into_iter().enumerate() {
                let through = if admit {
                    put.entry(key).or_default().push(number);
                    gate.admit(&key, number)
                } else if busy.remove(&key).is_some() {
                    gate.release(&key)
                } else {
                    continue;
                };
                if let Some(item) = through {
                    prop_assert!(busy.insert(key, item).is_none(), "two of key {key} at once");
                    out.entry(key).or_default().push(item);
                }
            }
            for (key, seen) in out {
                prop_assert_eq!(&put[&key][..seen.len()], &seen[..]);
            }
        }
    }
}
