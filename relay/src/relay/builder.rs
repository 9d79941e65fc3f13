//! Puts a relay together, and says everything that does not fit at once.

use std::{sync::Arc, time::Duration};

use barid::doorbell::{Address, Doorbell};
use tokio::sync::watch;

use super::Relay;
use crate::{
    archive::After,
    format::Format,
    lane::{Order, Poison, Share, Stats, Way, backoff::Backoff},
    lease::{INSTANCE_CHARS_MAX, LEASE_BOUNDS, default_instance},
    metrics::meter::Meter,
    sink::{Pattern, Route, Routes, Sink},
    source::Source,
};

/// However large the share of a key is: fewer keys than this do not stop the others.
const KEYS_THAT_FILL_THE_BUFFER: usize = 4;

/// The bounds and times of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Rows between reading and deleting. A small one takes two kilobytes of memory beside its payload. Default: 6,000, a large
    /// window and what is being read and deleted around it.
    pub buffer_rows_max: usize,
    /// Bytes of their payloads. One read may go beyond it by one row. Default: 64 MiB.
    pub buffer_bytes_max: usize,
    /// Rows of one key between reading and deleting, while the key waits or is strict: whoever is refused for an hour must not take
    /// the room of the others. The later ones stay in the outbox and are read again when the key flows. At most a quarter of
    /// `buffer_rows_max`, and of their payloads a quarter of `buffer_bytes_max`. Default: 500, far more than a key that flows
    /// needs.
    pub key_rows_max: usize,
    /// Rows that one read asks for. Default: 1,000.
    pub batch_rows: usize,
    /// Shortest pause after a read that found nothing; grows to an eighth of the time in which nothing came. Default: 1 ms.
    pub poll_min: Duration,
    /// Longest pause between reads: how late a row may be noticed after a long silence when no doorbell is rung. Default:
    /// 1.5 s, which leaves room for the renewals of the lease within one query a second.
    pub idle_poll: Duration,
    /// What becomes of a row that was confirmed. Default: it is deleted.
    pub after: After,
    /// Rows that one DELETE takes. Default: 1,000.
    pub delete_rows_max: usize,
    /// How long a confirmed row waits for others to be deleted with. Default: 5 ms.
    pub delete_wait: Duration,
    /// Shortest pause before a row is sent again. Default: 10 ms.
    pub retry_min: Duration,
    /// Longest pause before a row is sent again. Default: 5 s.
    pub retry_max: Duration,
    /// How long stopping may take for each of: the last answers, the last deletes. Default: 10 s.
    pub drain: Duration,
    /// How long another relay waits for this one when it cannot see whether it lives. It is renewed after a third and stops
    /// publishing after two thirds without a renewal. Default: 15 s: short enough for a crash at night, long enough for a
    /// database that stalls for some seconds.
    pub lease: Duration,
    /// A transaction of the source's database that has been open for so long is named in the log: until it ends no deleted row
    /// leaves its page. On PostgreSQL; sessions of other roles are seen with the right `pg_monitor`. Default: 15 minutes.
    pub old_transaction: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            buffer_rows_max: 6_000,
            buffer_bytes_max: 64 * 1024 * 1024,
            key_rows_max: 500,
            batch_rows: 1_000,
            poll_min: Duration::from_millis(1),
            idle_poll: Duration::from_millis(1_500),
            after: After::Delete,
            delete_rows_max: 1_000,
            delete_wait: Duration::from_millis(5),
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            lease: Duration::from_secs(15),
            old_transaction: Duration::from_secs(900),
        }
    }
}

impl Settings {
    /// What one key that waits may take of the buffer.
    pub(super) fn share(&self) -> Share {
        let rows_max = self.key_rows_max.min(self.buffer_rows_max / KEYS_THAT_FILL_THE_BUFFER).max(1);
        Share { rows_max, bytes_max: (self.buffer_bytes_max / KEYS_THAT_FILL_THE_BUFFER).max(1) }
    }

    /// The pauses between attempts; different in every process, so that two do not try in step.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_min, self.retry_max, u64::from(std::process::id()))
    }
}

/// Everything that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay cannot be built:\n  {}", problems.join("\n  "))]
pub struct BuildError {
    /// One line each.
    pub problems: Vec<String>,
}

/// A route before it is known to lead anywhere.
#[derive(Debug)]
struct Planned {
    destination: String,
    sink: String,
    order: Order,
    poison: Poison,
    format: Option<Arc<Format>>,
}

/// Collects the parts of a relay.
#[derive(Debug)]
#[must_use = "a relay does nothing until it is built and run"]
pub struct RelayBuilder {
    source: Arc<dyn Source>,
    sinks: Vec<Sink>,
    routes: Vec<Planned>,
    settings: Settings,
    instance: String,
    doorbell: Doorbell,
    doorbell_at: Option<Address>,
}

impl RelayBuilder {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            sinks: Vec::new(),
            routes: Vec::new(),
            settings: Settings::default(),
            instance: default_instance().to_owned(),
            doorbell: Doorbell::new(),
            doorbell_at: None,
        }
    }

    /// Adds a sink.
    pub fn sink(mut self, sink: Sink) -> Self {
        self.sinks.push(sink);
        self
    }

    /// What matches `destination` (`queue:*`, `topic:orders`) goes to the sink named `sink`. The first route that matches counts.
    pub fn route(mut self, destination: impl Into<String>, sink: impl Into<String>, order: Order) -> Self {
        let (destination, sink, poison) = (destination.into(), sink.into(), Poison::default());
        self.routes.push(Planned { destination, sink, order, poison, format: None });
        self
    }

    /// What becomes of rows of the route that was added last when they can never be delivered. Default: [`Poison::BlockKey`].
    pub fn on_poison(mut self, poison: Poison) -> Self {
        if let Some(route) = self.routes.last_mut() {
            route.poison = poison;
        }
        self
    }

    /// The form in which rows of the route that was added last are sent. Default: the transport's own. The sink's transport has to
    /// be one that the format is for: others send its headers, and nothing else of it.
    pub fn format(mut self, format: Format) -> Self {
        if let Some(route) = self.routes.last_mut() {
            route.format = Some(Arc::new(format));
        }
        self
    }

    /// Replaces the default bounds and times.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// What people see as the owner of the source. It need not be unique. Default: host, process and some random characters.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Looks at the outbox at once when this doorbell is rung: the one given to the outbox of a bus in the same process.
    pub fn doorbell(mut self, doorbell: Doorbell) -> Self {
        self.doorbell = doorbell;
        self
    }

    /// Listens at `address` while it runs, for the doorbells of other processes on this machine.
    pub fn doorbell_at(mut self, address: Address) -> Self {
        self.doorbell_at = Some(address);
        self
    }

    /// Puts the relay together.
    ///
    /// # Errors
    /// Every problem: no sink, no route, a name twice, a route to a sink that does not exist, a bound of zero.
    pub fn build(mut self) -> Result<Relay, BuildError> {
        let mut problems = Vec::new();
        if self.sinks.is_empty() {
            problems.push("there is no sink: add one".to_owned());
        }
        if self.routes.is_empty() {
            problems.push(
                "there is no route: every row would be parked; add one, for instance queue:*".to_owned(),
            );
        }
        for (at, sink) in self.sinks.iter().enumerate() {
            if self.sinks[..at].iter().any(|other| other.name == sink.name) {
                problems.push(format!("two sinks are called {:?}", sink.name));
            }
            if sink.window.rows_max == 0 {
                problems.push(format!("the window of sink {:?} has no room for a row", sink.name));
            }
        }
        let mut routes = Vec::new();
        for Planned { destination, sink, order, poison, format } in std::mem::take(&mut self.routes) {
            let pattern = destination.parse::<Pattern>().map_err(|error| problems.push(error.to_string()));
            let found = self.sinks.iter().position(|known| known.name == sink);
            if found.is_none() {
                let names: Vec<&str> = self.sinks.iter().map(|sink| sink.name.as_str()).collect();
                let names = names.join(", ");
                problems.push(format!(
                    "route {destination:?} leads to sink {sink:?}, which does not exist (sinks: {names})"
                ));
            }
            if let (Ok(destination), Some(sink)) = (pattern, found) {
                let to = &mut self.sinks[sink];
                if !format.as_ref().is_some_and(|format| format.reroutes()) {
                    to.destinations.extend(destination.fixed());
                }
                let order = match order {
                    // No row can overtake another one of its batch, and batches follow one another.
                    Order::Strict if to.transport.publishes_atomically() => Order::Pipelined,
                    order => order,
                };
                routes.push(Route { destination, way: Way { sink, order, poison }, format });
            }
        }
        let settings = &self.settings;
        let rows =
            [settings.buffer_rows_max, settings.key_rows_max, settings.batch_rows, settings.delete_rows_max];
        if rows.contains(&0) {
            let names = "buffer_rows_max, key_rows_max, batch_rows and delete_rows_max";
            problems.push(format!("{names} must be at least 1"));
        }
        let (shortest, longest) = LEASE_BOUNDS;
        if !(shortest..=longest).contains(&settings.lease) {
            problems
                .push(format!("a lease lasts from {shortest:?} to {longest:?}, not {:?}", settings.lease));
        }
        if self.instance.is_empty() || self.instance.chars().count() > INSTANCE_CHARS_MAX {
            problems.push(format!("the name of an instance has 1 to {INSTANCE_CHARS_MAX} characters"));
        }
        if !problems.is_empty() {
            return Err(BuildError { problems });
        }
        let meter = Arc::new(Meter::new(self.sinks.iter().map(|sink| sink.name.as_str())));
        Ok(Relay {
            source: self.source,
            sinks: self.sinks,
            routes: Routes::new(routes),
            settings: self.settings,
            instance: self.instance,
            doorbell: self.doorbell,
            doorbell_at: self.doorbell_at,
            stats: watch::Sender::new(Stats::default()),
            meter,
        })
    }
}
