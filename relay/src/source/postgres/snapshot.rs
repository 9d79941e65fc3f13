//! Snapshots as PostgreSQL prints them, and what became visible between two of them. No I/O.

use std::{fmt, str::FromStr};

/// Which transactions had ended at a moment: all below `xmin`, none from `xmax` on, and between them all but `running`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// In order.
    running: Vec<u64>,
}

/// A text that is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot of the form xmin:xmax:xip,xip,..")]
pub struct NotASnapshot(String);

/// The transactions that ended between two snapshots: those from `from` on and below `below` that are not `still_running`,
/// and those that `ended`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// xmax of the earlier snapshot.
    pub from: u64,
    /// xmax of the later snapshot.
    pub below: u64,
    /// Running in the later snapshot.
    pub still_running: Vec<u64>,
    /// Running in the earlier snapshot and no longer in the later one.
    pub ended: Vec<u64>,
}

impl Snapshot {
    /// The snapshot in which nothing has ever happened.
    #[must_use]
    pub fn nothing() -> Self {
        Self { xmin: 0, xmax: 0, running: Vec::new() }
    }

    /// What a reader that has seen everything in `self` finds new in `later`.
    #[must_use]
    pub fn until(&self, later: &Self) -> Window {
        let ended = |xid: &u64| later.running.binary_search(xid).is_err();
        Window {
            from: self.xmax,
            below: later.xmax,
            still_running: later.running.clone(),
            ended: self.running.iter().copied().filter(ended).collect(),
        }
    }

    /// The first transaction that had not begun.
    #[must_use]
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions below it that had not ended.
    #[must_use]
    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// Whether what transaction `xid` committed can be seen.
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmax && self.running.binary_search(&xid).is_err()
    }

    /// Whether `later` is of the same history: transaction ids never go back, except when a server lost transactions.
    #[must_use]
    pub fn can_precede(&self, later: &Self) -> bool {
        self.xmin <= later.xmin && self.xmax <= later.xmax
    }
}

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split(':');
            let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let list = parts.next()?;
            let mut running = Vec::new();
            if !list.is_empty() {
                for xid in list.split(',') {
                    running.push(xid.parse().ok()?);
                }
            }
            let ordered = running.is_sorted() && running.iter().all(|xid| (xmin..xmax).contains(xid));
            (xmin <= xmax && ordered && parts.next().is_none()).then_some(Self { xmin, xmax, running })
        };
        parse().ok_or_else(|| NotASnapshot(text.to_owned()))
    }
}

/// A list of transaction ids as PostgreSQL reads it: `{1,2,3}`.
#[must_use]
pub fn list(xids: &[u64]) -> String {
    let mut text = String::with_capacity(2 + xids.len() * 11);
    text.push('{');
    for (at, xid) in xids.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&xid.to_string());
    }
    text.push('}');
    text
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.xmin, self.xmax, list(&self.running).trim_matches(['{', '}']))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["10:10:", "10:20:10", "10:20:10,12,19", "3:18446744073709551615:3"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for text in
            ["", "10", "10:20", "20:10:", "10:20:x", "10:20:12,11", "10:20:20", "10:20:9", "10:20::", "a:b:"]
        {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn lists_are_arrays() {
        assert_eq!(list(&[]), "{}");
        assert_eq!(list(&[1, 20]), "{1,20}");
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        (1u64..30, 0u64..20, any::<u32>()).prop_map(|(xmin, span, bits)| {
            let running = (xmin..xmin + span).filter(|xid| bits >> (xid - xmin) & 1 == 1).collect();
            Snapshot { xmin, xmax: xmin + span, running }
        })
    }

    /// A later snapshot of the same history: some of what ran has ended, some more has started.
    fn later(of: &Snapshot, bits: u64) -> Snapshot {
        let xmax = of.xmax + (bits >> 32) % 10;
        let stays = |xid: &u64| bits >> (xid % 32) & 1 == 1;
        let running: Vec<u64> = of.running.iter().copied().chain(of.xmax..xmax).filter(stays).collect();
        Snapshot { xmin: running.first().copied().unwrap_or(xmax), xmax, running }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_window_is_what_the_later_snapshot_sees_and_the_earlier_does_not(a in snapshot(), bits in any::<u64>()) {
            let b = later(&a, bits);
            let window = a.until(&b);
            for xid in 0..80 {
                let new = b.sees(xid) && !a.sees(xid);
                let inside = xid >= window.from && xid < window.below && !window.still_running.contains(&xid);
                prop_assert_eq!(new, inside || window.ended.contains(&xid), "xid {} of {} to {}", xid, &a, &b);
            }
        }
    }
}
