//! Knows how far a partition may be committed. Pure.
//!
//! Messages are handled in any order; Kafka knows one position per partition. The position therefore moves only past
//! messages that were all handled: a crash can repeat a message, and never loses one.

use std::collections::VecDeque;

/// The messages of one assigned partition that were read and lie at or above its position.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// In the order of their offsets, which may have gaps (compaction, transaction markers).
    open: VecDeque<(i64, bool)>,
    /// One past the last message that was read.
    end: Option<i64>,
    /// Whether the position ever moved past a message.
    moved: bool,
}

impl Offsets {
    /// A message was read. False when it is not above every earlier one: it was read before, and is not counted again.
    pub(super) fn received(&mut self, offset: i64) -> bool {
        if self.end.is_some_and(|end| offset < end) {
            return false;
        }
        self.open.push_back((offset, false));
        self.end = Some(offset + 1);
        true
    }

    /// A message was handled. Unknown offsets are ignored.
    pub(super) fn handled(&mut self, offset: i64) {
        if let Ok(index) = self.open.binary_search_by_key(&offset, |(open, _)| *open) {
            self.open[index].1 = true;
        }
        while self.open.front().is_some_and(|(_, handled)| *handled) {
            self.open.pop_front();
            self.moved = true;
        }
    }

    /// Whether the position ever moved: before that there is nothing to commit.
    pub(super) fn moved(&self) -> bool {
        self.moved
    }

    /// Where to continue after a crash: everything below was handled. `None` before the first message.
    pub(super) fn position(&self) -> Option<i64> {
        self.open.front().map(|(offset, _)| *offset).or(self.end)
    }

    /// How many messages lie at or above the position.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_position_waits_for_the_slowest() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.position(), None);
        for offset in [10, 11, 15] {
            assert!(offsets.received(offset));
        }
        assert_eq!(offsets.position(), Some(10));
        offsets.handled(15);
        offsets.handled(11);
        assert_eq!((offsets.position(), offsets.open()), (Some(10), 3));
        offsets.handled(10);
        assert_eq!((offsets.position(), offsets.open()), (Some(16), 0));
    }

    #[test]
    fn what_was_read_before_is_not_counted_again() {
        let mut offsets = Offsets::default();
        assert!(offsets.received(5));
        assert!(!offsets.received(5));
        offsets.handled(5);
        assert!(!offsets.received(4));
        assert_eq!(offsets.position(), Some(6));
    }

    proptest! {
        /// Against the plainest model: a map of everything that was ever read, searched from the start.
        #[test]
        fn agrees_with_a_map(gaps in proptest::collection::vec(1i64..4, 1..60), acks in proptest::collection::vec(0usize..80, 0..120)) {
            let mut offsets = Offsets::default();
            let mut model: BTreeMap<i64, bool> = BTreeMap::new();
            let mut next = 0;
            let mut acks = acks.into_iter();
            for gap in gaps {
                next += gap;
                prop_assert!(offsets.received(next));
                model.insert(next, false);
                for ack in acks.by_ref().take(2) {
                    let offset = i64::try_from(ack).unwrap();
                    offsets.handled(offset);
                    model.entry(offset).and_modify(|handled| *handled = true);
                    let expected = model.iter().find(|(_, handled)| !**handled).map_or(next + 1, |(offset, _)| *offset);
                    prop_assert_eq!(offsets.position(), Some(expected));
                }
            }
        }
    }
}
