//! Where the rows are kept: numbered places that are used again, so that a row costs no allocation of its own.

use std::ops::{Index, IndexMut};

use barid::transport::{OutgoingRow, Token};

use super::{KeyId, Mark, Way};

/// The number of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ix(pub(super) u32);

impl Ix {
    /// The place that a token names, whether or not it still holds that row.
    pub(super) fn of(token: Token) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the lower half of a token is the place
        Self(token.0 as u32)
    }
}

/// What a row is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For an earlier row of its key, or for the end of a pause.
    Waiting,
    /// For room in the window of its sink.
    Ready,
    /// For an answer.
    InFlight,
}

/// One row and its links in the chain of its key.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) row: OutgoingRow,
    pub(super) way: Way,
    pub(super) mark: Mark,
    pub(super) key: Option<KeyId>,
    pub(super) phase: Phase,
    pub(super) attempts: u32,
    pub(super) previous: Option<Ix>,
    pub(super) next: Option<Ix>,
}

#[derive(Debug)]
struct Place {
    /// Counts the uses of a place, and the times that a ready row was taken back: an old token names nothing.
    generation: u32,
    slot: Option<Slot>,
}

/// The places.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    free: Vec<u32>,
    bytes: usize,
}

impl Slots {
    pub(super) fn insert(&mut self, row: OutgoingRow, way: Way, key: Option<KeyId>, mark: Mark) -> Ix {
        self.bytes += row.payload_len();
        let slot =
            Slot { row, way, mark, key, phase: Phase::Waiting, attempts: 0, previous: None, next: None };
        if let Some(at) = self.free.pop() {
            self.places[at as usize].slot = Some(slot);
            return Ix(at);
        }
        self.places.push(Place { generation: 0, slot: Some(slot) });
        Ix(u32::try_from(self.places.len() - 1).expect("the buffer is bounded far below 2^32 rows"))
    }

    /// Takes a row out; tokens that named it name nothing from now on.
    pub(super) fn remove(&mut self, ix: Ix) -> Slot {
        let place = &mut self.places[ix.0 as usize];
        let slot = place.slot.take().expect("a place is emptied once");
        place.generation = place.generation.wrapping_add(1);
        self.free.push(ix.0);
        self.bytes -= slot.row.payload_len();
        slot
    }

    /// Makes the tokens that name this row name nothing.
    pub(super) fn revoke(&mut self, ix: Ix) {
        let place = &mut self.places[ix.0 as usize];
        place.generation = place.generation.wrapping_add(1);
    }

    pub(super) fn token(&self, ix: Ix) -> Token {
        Token(u64::from(self.places[ix.0 as usize].generation) << 32 | u64::from(ix.0))
    }

    /// The place of the row that a token names, if it still does.
    pub(super) fn find(&self, token: Token) -> Option<Ix> {
        let ix = Ix::of(token);
        let place = self.places.get(ix.0 as usize)?;
        (place.slot.is_some() && u64::from(place.generation) == token.0 >> 32).then_some(ix)
    }

    /// The place that a token named once, whatever it holds now.
    #[cfg(test)]
    pub(super) fn taken(&self, token: Token) -> Option<Ix> {
        let ix = Ix::of(token);
        self.places.get(ix.0 as usize)?.slot.is_some().then_some(ix)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Index<Ix> for Slots {
    type Output = Slot;

    fn index(&self, ix: Ix) -> &Slot {
        self.places[ix.0 as usize].slot.as_ref().expect("an index is used while its row is there")
    }
}

impl IndexMut<Ix> for Slots {
    fn index_mut(&mut self, ix: Ix) -> &mut Slot {
        self.places[ix.0 as usize].slot.as_mut().expect("an index is used while its row is there")
    }
}
