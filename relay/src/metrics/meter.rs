//! What one relay counts while it works: atomics that are there from the beginning, so that counting allocates nothing.
//!
//! The relay counts, whoever serves `/metrics` reads, and neither waits for the other. Sinks and destinations are labels;
//! destinations are capped, because whoever writes to the outbox chooses them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use barid::transport::{Link, Outcome};

use super::histogram::Histogram;
use crate::{
    lane::{Lanes, Mark},
    lease::Epoch,
};

/// Destinations that have a label of their own; the others of a sink share `other`. A time series costs a monitoring system a few
/// kilobytes, and each destination has five.
pub const DESTINATIONS_MAX: usize = 100;

/// The label of destinations beyond [`DESTINATIONS_MAX`].
pub const OTHER: &str = "other";

/// What one relay counts.
#[derive(Debug)]
pub struct Meter {
    sinks: Vec<SinkMeter>,
    /// One for each sink's `other`, then one for each destination in the order of its first row.
    routes: Box<[RouteMeter]>,
    /// The sink and the name of each destination that has a label.
    destinations: Mutex<Vec<(usize, String)>>,
    epoch: AtomicI64,
    owner: AtomicU8,
    buffered_rows: AtomicUsize,
    buffered_bytes: AtomicUsize,
}

/// What is counted of one sink.
#[derive(Debug, Default)]
pub struct SinkMeter {
    /// As in the configuration.
    pub name: String,
    /// From the writing of a row to its confirm.
    pub delivery: Histogram,
    in_flight_rows: AtomicUsize,
    in_flight_bytes: AtomicUsize,
    link: AtomicU8,
}

/// What is counted of one destination on one sink.
#[derive(Debug, Default)]
pub struct RouteMeter {
    published: AtomicU64,
    /// In the order of [`ANSWERS`].
    answers: [AtomicU64; ANSWERS.len()],
}

/// The labels of [`Outcome`]s.
pub const ANSWERS: [&str; 4] = ["confirmed", "transient", "permanent", "unknown"];

const LINK_UP: u8 = 1;
const LINK_BLOCKED: u8 = 2;

impl Meter {
    /// For a relay with these sinks, in the order of their indexes.
    #[must_use]
    pub fn new<'a>(sinks: impl Iterator<Item = &'a str>) -> Self {
        let sinks: Vec<_> =
            sinks.map(|name| SinkMeter { name: name.to_owned(), ..SinkMeter::default() }).collect();
        Self {
            routes: (0..sinks.len() + DESTINATIONS_MAX).map(|_| RouteMeter::default()).collect(),
            sinks,
            destinations: Mutex::default(),
            epoch: AtomicI64::new(0),
            owner: AtomicU8::new(0),
            buffered_rows: AtomicUsize::new(0),
            buffered_bytes: AtomicUsize::new(0),
        }
    }

    /// The label of a destination on a sink. Asked once for each destination, not for each row.
    pub fn label(&self, sink: usize, destination: &str) -> u16 {
        let mut known = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |(at, name): &(usize, String)| *at == sink && name == destination;
        let place = match known.iter().position(is) {
            Some(place) => place,
            None if known.len() >= DESTINATIONS_MAX => return narrow(sink),
            None => {
                known.push((sink, destination.to_owned()));
                known.len() - 1
            }
        };
        narrow(self.sinks.len() + place)
    }

    /// A row was handed to its sink.
    pub fn published(&self, mark: Mark) {
        if let Some(route) = self.routes.get(usize::from(mark.label)) {
            route.published.fetch_add(1, Relaxed);
        }
    }

    /// A row was answered.
    pub fn settled(&self, sink: usize, mark: Mark, outcome: &Outcome, now: Instant) {
        let answer = match outcome {
            Outcome::Confirmed => 0,
            Outcome::Transient(_) => 1,
            Outcome::Permanent(_) => 2,
            Outcome::Unknown(_) => 3,
        };
        if let Some(route) = self.routes.get(usize::from(mark.label)) {
            route.answers[answer].fetch_add(1, Relaxed);
        }
        if let (0, Some(since), Some(sink)) = (answer, mark.since, self.sinks.get(sink)) {
            sink.delivery.observe(now.saturating_duration_since(since));
        }
    }

    /// How full everything is, and how it stands with a broker.
    pub fn look<'a>(&self, lanes: &Lanes, links: impl Iterator<Item = Link> + 'a) {
        self.buffered_rows.store(lanes.buffered(), Relaxed);
        self.buffered_bytes.store(lanes.bytes(), Relaxed);
        for (at, (sink, link)) in self.sinks.iter().zip(links).enumerate() {
            let (rows, bytes) = lanes.in_flight_on(at);
            sink.in_flight_rows.store(rows, Relaxed);
            sink.in_flight_bytes.store(bytes, Relaxed);
            let link = match link {
                Link::Up => LINK_UP,
                Link::Blocked => LINK_BLOCKED,
                Link::Down => 0,
            };
            sink.link.store(link, Relaxed);
        }
    }

    /// The source is this relay's.
    fn owns(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Relaxed);
        self.owner.store(1, Relaxed);
    }

    /// The source is not this relay's any more: nothing is in flight, nobody is connected.
    fn owns_nothing(&self) {
        self.owner.store(0, Relaxed);
        self.buffered_rows.store(0, Relaxed);
        self.buffered_bytes.store(0, Relaxed);
        for sink in &self.sinks {
            sink.in_flight_rows.store(0, Relaxed);
            sink.in_flight_bytes.store(0, Relaxed);
            sink.link.store(0, Relaxed);
        }
    }

    /// The epoch of the last ownership, and whether it still is one.
    #[must_use]
    pub fn ownership(&self) -> (Epoch, bool) {
        (Epoch(self.epoch.load(Relaxed)), self.owner.load(Relaxed) == 1)
    }

    /// Rows between reading and deleting, and the bytes of their payloads.
    #[must_use]
    pub fn buffered(&self) -> (usize, usize) {
        (self.buffered_rows.load(Relaxed), self.buffered_bytes.load(Relaxed))
    }

    /// The sinks.
    #[must_use]
    pub fn sinks(&self) -> &[SinkMeter] {
        &self.sinks
    }

    /// Shows each sink and destination that had a row.
    pub fn each_route(&self, mut show: impl FnMut(&SinkMeter, &str, &RouteMeter)) {
        let known = self.destinations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others = self.sinks.iter().map(|sink| (sink, OTHER));
        let named = known.iter().filter_map(|(sink, name)| Some((self.sinks.get(*sink)?, name.as_str())));
        for ((sink, name), route) in others.chain(named).zip(&self.routes) {
            if route.published() > 0 {
                show(sink, name, route);
            }
        }
    }
}

/// Lives as long as a source is a relay's.
#[derive(Debug)]
pub(crate) struct Owning(Arc<Meter>);

impl Owning {
    pub(crate) fn new(meter: Arc<Meter>, epoch: Epoch) -> Self {
        meter.owns(epoch);
        Self(meter)
    }
}

impl Drop for Owning {
    fn drop(&mut self) {
        self.0.owns_nothing();
    }
}

impl SinkMeter {
    /// Rows that were handed over and not yet answered, and the bytes of their payloads.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.in_flight_rows.load(Relaxed), self.in_flight_bytes.load(Relaxed))
    }

    /// How it stands with the broker; down while this relay does not own its source.
    #[must_use]
    pub fn link(&self) -> Link {
        match self.link.load(Relaxed) {
            LINK_UP => Link::Up,
            LINK_BLOCKED => Link::Blocked,
            _ => Link::Down,
        }
    }
}

impl RouteMeter {
    /// How often a row was handed to the sink, repetitions included.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// How often each of [`ANSWERS`] came.
    #[must_use]
    pub fn answers(&self) -> [u64; ANSWERS.len()] {
        std::array::from_fn(|at| self.answers[at].load(Relaxed))
    }
}

fn narrow(label: usize) -> u16 {
    // A label beyond all counts nowhere.
    u16::try_from(label).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_beyond_the_cap_share_a_label_and_are_still_counted() {
        let meter = Meter::new(["rabbit", "kafka"].into_iter());
        for number in 0..DESTINATIONS_MAX * 3 {
            let label = meter.label(1, &format!("topic:{number}"));
            meter.published(Mark { since: None, label });
            meter.settled(1, Mark { since: None, label }, &Outcome::Confirmed, Instant::now());
        }
        assert_eq!(meter.label(1, "topic:7"), meter.label(1, "topic:7"));
        let mut shown = Vec::new();
        meter.each_route(|sink, name, route| {
            assert_eq!(sink.name, "kafka");
            shown.push((name.to_owned(), route.answers()[0]));
        });
        assert_eq!(shown.len(), DESTINATIONS_MAX + 1);
        assert_eq!(shown[0], (OTHER.to_owned(), 2 * DESTINATIONS_MAX as u64));
        assert_eq!(shown.iter().map(|(_, count)| count).sum::<u64>(), 3 * DESTINATIONS_MAX as u64);
    }
}
