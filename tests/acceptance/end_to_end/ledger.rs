//! What became of the promises, counted from the tables, the bus's arrivals and the broker's tape. Pure.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use barid_tests::{ledger::order_breaks, tape::Copy};
use uuid::Uuid;

use super::{HELD_MAX, KILLS, arrivals::Arrival, faults::Kill, orders::OrderPlaced};

/// What was found in the end.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// Commands, without the copies of some of them.
    pub(crate) ordered: usize,
    pub(crate) orders: Vec<OrderPlaced>,
    pub(crate) orders_tried: usize,
    pub(crate) outbox_left: usize,
    pub(crate) parked: usize,
    /// Commands that the orders bus gave up.
    pub(crate) refused: usize,
    pub(crate) shipments: Vec<OrderPlaced>,
    pub(crate) shipments_tried: usize,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) tape: Vec<Copy<OrderPlaced>>,
    pub(crate) kills: Vec<Kill>,
}

/// The counts. What is named after a promise must be zero.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    ordered: usize,
    committed: usize,
    rolled_back_orders: usize,
    rolled_back_shipments: usize,
    /// Copies that the broker got beyond the first of each message.
    duplicates: usize,
    duplicates_max: usize,
    /// Deliveries that the broker repeated because the bus gave the message back.
    redelivered: usize,
    kills: Vec<KillLine>,
    /// L: committed and not shipped, or never confirmed, parked, given up.
    lost: usize,
    /// P: published or shipped without a committed order.
    phantom: usize,
    /// D: copies beyond the first that no kill explains.
    unexplained: usize,
    /// O: first deliveries that came before an earlier one of their shop, on the tape and at the bus.
    order_breaks: usize,
    /// E: orders or shipments beyond the first.
    effects_twice: usize,
}

#[derive(Clone, Copy, Debug)]
struct KillLine {
    signal: Option<i32>,
    deleted: usize,
    /// Rows that were in the outbox at the kill and that the broker got only afterwards.
    unconfirmed: usize,
    /// Rows that the broker had got and that were not deleted.
    in_doubt: usize,
}

impl Evidence {
    pub(crate) fn ledger(&self) -> Ledger {
        let committed: HashSet<Uuid> = self.orders.iter().map(|order| order.attempt).collect();
        let shipped: HashSet<Uuid> = self.shipments.iter().map(|shipment| shipment.attempt).collect();
        let mut copies: HashMap<Uuid, Vec<usize>> = HashMap::new();
        for copy in &self.tape {
            copies.entry(copy.id).or_default().push(copy.marks);
        }
        let explained = |id: &Uuid| self.kills.iter().filter(|kill| kill.left.contains(id)).count();
        let arrived = self.arrivals.iter().map(|arrival| arrival.event.attempt);
        let published = self.tape.iter().map(|copy| copy.event.attempt);
        Ledger {
            ordered: self.ordered,
            committed: self.orders.len(),
            rolled_back_orders: self.orders_tried - self.orders.len(),
            rolled_back_shipments: self.shipments_tried - self.shipments.len(),
            duplicates: self.tape.len() - copies.len(),
            duplicates_max: HELD_MAX * self.kills.len(),
            redelivered: self.arrivals.iter().filter(|arrival| arrival.again).count(),
            kills: self.kills.iter().enumerate().map(|(at, kill)| line(at, kill, &copies)).collect(),
            lost: committed.difference(&shipped).count()
                + self.outbox_left
                + self.parked
                + self.refused
                + self.ordered.abs_diff(distinct(&self.orders)),
            phantom: arrived.chain(published).chain(shipped).filter(|run| !committed.contains(run)).count(),
            unexplained: copies
                .iter()
                .map(|(id, marks)| (marks.len() - 1).saturating_sub(explained(id)))
                .sum(),
            order_breaks: order_breaks(self.tape.iter().map(|copy| (copy.id, copy.event.shop, copy.event.n)))
                + order_breaks(self.arrivals.iter().map(|one| (one.id, one.event.shop, one.event.n))),
            effects_twice: self.orders.len() - distinct(&self.orders) + self.shipments.len()
                - distinct(&self.shipments),
        }
    }
}

fn distinct(rows: &[OrderPlaced]) -> usize {
    rows.iter().map(|row| row.number).collect::<HashSet<_>>().len()
}

fn line(at: usize, kill: &Kill, copies: &HashMap<Uuid, Vec<usize>>) -> KillLine {
    // Mark number `at` was made after kill number `at`.
    let before = |id: &&Uuid| copies.get(*id).is_some_and(|marks| marks.iter().any(|marks| *marks <= at));
    KillLine {
        signal: kill.signal,
        deleted: kill.deleted,
        unconfirmed: kill.held.iter().filter(|id| !before(id)).count(),
        in_doubt: kill.left.iter().filter(before).count(),
    }
}

impl Ledger {
    /// Every promise, and that there was something to keep them against.
    pub(crate) fn assert_promises(&self) {
        let kept = [self.lost, self.phantom, self.unexplained, self.order_breaks, self.effects_twice];
        assert_eq!(kept, [0; 5], "L, P, D, O, E\n{self}");
        assert_eq!(self.committed, self.ordered, "{self}");
        assert!(self.rolled_back_orders >= self.ordered / 10, "one order in ten rolled back\n{self}");
        assert!(self.rolled_back_shipments >= self.ordered / 20, "one shipment in ten rolled back\n{self}");
        assert!(self.duplicates > 0, "nothing was published twice: the kills hit nothing\n{self}");
        assert!(self.duplicates <= self.duplicates_max, "more than the relay may hold\n{self}");
        assert_eq!(self.kills.len(), KILLS, "{self}");
        for kill in &self.kills {
            assert!(kill.signal == Some(9) && kill.unconfirmed > 0 && kill.deleted > 0, "{kill:?}\n{self}");
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kill) in self.kills.iter().enumerate() {
            writeln!(
                f,
                "kill {:2}: signal={} deleted={} unconfirmed={} in_doubt={}",
                at + 1,
                kill.signal.unwrap_or_default(),
                kill.deleted,
                kill.unconfirmed,
                kill.in_doubt
            )?;
        }
        write!(
            f,
            "ledger: ordered={} committed={} rolled_back={}+{} duplicates={} (at most {}) redelivered={} kills={} \
             lost={} phantom={} unexplained={} order_breaks={} effects_twice={}",
            self.ordered,
            self.committed,
            self.rolled_back_orders,
            self.rolled_back_shipments,
            self.duplicates,
            self.duplicates_max,
            self.redelivered,
            self.kills.len(),
            self.lost,
            self.phantom,
            self.unexplained,
            self.order_breaks,
            self.effects_twice
        )
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
