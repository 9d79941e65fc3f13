//! The unsettled rows of one key, in their order.

use std::time::Instant;

use super::slots::{Ix, Slots};

/// A list through the slots, and how far along it rows were made ready.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) head: Option<Ix>,
    pub(super) tail: Option<Ix>,
    /// How many they are, and the bytes of their payloads.
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// The first row that was not yet made ready.
    pub(super) frontier: Option<Ix>,
    pub(super) in_flight: usize,
    /// After a negative answer: nothing of this key becomes ready before this time, nor before what is in flight drained.
    pub(super) stopped_until: Option<Instant>,
}

impl Chain {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub(super) fn append(&mut self, slots: &mut Slots, ix: Ix) {
        slots[ix].previous = self.tail;
        slots[ix].next = None;
        self.rows += 1;
        self.bytes += slots[ix].row.payload_len();
        match self.tail {
            Some(tail) => slots[tail].next = Some(ix),
            None => self.head = Some(ix),
        }
        self.tail = Some(ix);
        if self.frontier.is_none() {
            self.frontier = Some(ix);
        }
    }

    pub(super) fn unlink(&mut self, slots: &mut Slots, ix: Ix) {
        let (previous, next) = (slots[ix].previous, slots[ix].next);
        self.rows -= 1;
        self.bytes -= slots[ix].row.payload_len();
        match previous {
            Some(previous) => slots[previous].next = next,
            None => self.head = next,
        }
        match next {
            Some(next) => slots[next].previous = previous,
            None => self.tail = previous,
        }
        if self.frontier == Some(ix) {
            self.frontier = next;
        }
    }
}
