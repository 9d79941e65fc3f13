//! How rows that were read come into the lanes.

use barid::transport::OutgoingRow;

use super::{Halted, Lanes, Mark, Order, ParkState, Poison, Pushed, RowId, Way};

impl Lanes {
    /// Takes a row that was read. Rows of a key must be pushed in their order.
    pub fn push(&mut self, row: OutgoingRow, way: Way) -> Pushed {
        self.push_marked(row, way, Mark::default())
    }

    /// As [`Lanes::push`], with what [`Lanes::mark`] returns as long as the row is here.
    pub fn push_marked(&mut self, row: OutgoingRow, way: Way, mark: Mark) -> Pushed {
        let id = RowId::of(&row);
        if self.known.contains(&id) && !broken!(self, TakesAKnownRow) {
            self.come_back(id);
            return Pushed::Known;
        }
        let key = match (way.order, &row.aggregateid) {
            (Order::None, Some(aggregateid)) if broken!(self, OrdersTheUnordered) => {
                Some(self.key_id(&row.aggregatetype, aggregateid))
            }
            (Order::None, _) | (_, None) => None,
            (_, Some(aggregateid)) => Some(self.key_id(&row.aggregatetype, aggregateid)),
        };
        let Some(key) = key else {
            self.known.insert(id);
            let ix = self.slots.insert(row, way, None, mark);
            self.make_ready(ix);
            return Pushed::New;
        };
        if self.is_held(key, id.seq) {
            self.known.insert(id);
            self.park_behind(id, 0);
            return Pushed::Behind;
        }
        if self.leaves_out(key, &row, way) {
            return Pushed::LeftOut;
        }
        self.known.insert(id);
        let ix = self.slots.insert(row, way, Some(key), mark);
        self.chains.entry(key).or_default().append(&mut self.slots, ix);
        self.advance(key);
        Pushed::New
    }

    /// Takes a row that was read and can never be published on its route: what becomes of it is what the route says.
    pub fn push_unfit(&mut self, id: RowId, key: Option<(&str, &str)>, way: Way, reason: String) -> Pushed {
        let ordered = key.filter(|_| way.order != Order::None);
        match way.poison {
            // Where there is a key and no order, nobody waits for the row.
            Poison::BlockKey if ordered == key => return self.push_refused(id, key, reason),
            Poison::Halt => {
                let reason = format!("its route says halt: {reason}");
                self.halted.get_or_insert(Halted { row: id, reason });
                return Pushed::New;
            }
            Poison::BlockKey | Poison::Skip => {}
        }
        if !self.known.insert(id) {
            self.come_back(id);
            return Pushed::Known;
        }
        let held = ordered.map(|(aggregatetype, aggregateid)| self.key_id(aggregatetype, aggregateid));
        if held.is_some_and(|key| self.is_held(key, id.seq)) {
            self.park_behind(id, 0);
            return Pushed::Behind;
        }
        self.park(id, ParkState::Skipped, 0, reason, Some(way.sink));
        Pushed::New
    }

    /// Takes a row that was read and can never be published: it is parked, and its key is held.
    pub fn push_refused(&mut self, id: RowId, key: Option<(&str, &str)>, reason: String) -> Pushed {
        if !self.known.insert(id) {
            self.come_back(id);
            return Pushed::Known;
        }
        if let Some((aggregatetype, aggregateid)) = key {
            let key = self.key_id(aggregatetype, aggregateid);
            if self.is_held(key, id.seq) {
                self.park_behind(id, 0);
                return Pushed::Behind;
            }
            self.hold_behind(key, id);
        }
        self.park(id, ParkState::Poison, 0, reason, None);
        Pushed::New
    }
}
