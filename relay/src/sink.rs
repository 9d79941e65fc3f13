//! Where rows go: which destination belongs to which sink, and the sinks' publishers.
//!
//! The routes are the allow-list: a destination that none of them names is a permanent failure, and the row is parked with a
//! reason that says so. What a sink does with a row is the business of the transport behind it.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use barid::{
    Destination,
    limits::{WINDOW_BYTES_MAX, WINDOW_ROWS_MAX},
    transport::{Outcome, Publisher, Token, Transport, TransportError},
};
use futures::future::{FutureExt, select_all};

use serde::Deserialize;

use crate::{
    format::Format,
    lane::{Way, Window},
};

/// Which destinations a route takes: `queue:NAME` or `topic:NAME`, where `*` in NAME stands for any characters, or `*`
/// alone for everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// A text that can match no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} matches no destination: write queue:NAME or topic:NAME, with * for any characters, or * for everything"
)]
pub struct PatternError(String);

impl Pattern {
    /// The destination, when there is only one that matches.
    #[must_use]
    pub fn fixed(&self) -> Option<Destination> {
        // A destination has no `*`, so that a pattern with one is none.
        self.0.parse().ok()
    }

    /// Whether a destination, as it is written, goes this way.
    #[must_use]
    pub fn matches(&self, destination: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = destination.strip_prefix(first) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sample = text.replace('*', "x");
        if text == "*" || sample.parse::<Destination>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(PatternError(text.to_owned()))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One route: what goes where.
#[derive(Clone, Debug)]
pub struct Route {
    /// The destinations that it takes.
    pub destination: Pattern,
    /// Where they go.
    pub way: Way,
    /// In which form; `None` is the transport's own.
    pub format: Option<Arc<Format>>,
}

/// All routes; the first that matches counts.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Route>,
    /// What was asked before: the number of the route, and its label. Destinations are few; a table full of them is emptied.
    known: HashMap<Destination, Option<(usize, u16)>>,
}

const KNOWN_DESTINATIONS_MAX: usize = 10_000;

impl Routes {
    /// These routes, in this order.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self { routes, known: HashMap::new() }
    }

    /// Where `destination` goes.
    ///
    /// # Errors
    /// When no route matches: the reason, for whoever looks at the parked row.
    pub fn way(&mut self, destination: &Destination) -> Result<Way, String> {
        self.labelled(destination, |_, _| 0).map(|(route, _)| route.way)
    }

    /// The route of `destination`, with the label that `label` gives to the sink and the destination; it is asked once for each, not for
    /// each row.
    ///
    /// # Errors
    /// As [`Routes::way`].
    pub fn labelled(
        &mut self,
        destination: &Destination,
        label: impl FnOnce(usize, &str) -> u16,
    ) -> Result<(&Route, u16), String> {
        let found = match self.known.get(destination) {
            Some(found) => *found,
            None => self.find(destination, label),
        };
        match found {
            Some((route, label)) => Ok((&self.routes[route], label)),
            None => Err(self.unknown(destination)),
        }
    }

    /// Looks for it, and keeps what was found.
    fn find(
        &mut self,
        destination: &Destination,
        label: impl FnOnce(usize, &str) -> u16,
    ) -> Option<(usize, u16)> {
        let text = destination.to_string();
        let route = self.routes.iter().position(|route| route.destination.matches(&text));
        if self.known.len() >= KNOWN_DESTINATIONS_MAX {
            self.known.clear();
        }
        let found = route.map(|route| (route, label(self.routes[route].way.sink, &text)));
        self.known.insert(destination.clone(), found);
        found
    }

    fn unknown(&self, destination: &Destination) -> String {
        let routes: Vec<String> =
            self.routes.iter().map(|route| format!("\"{}\"", route.destination)).collect();
        format!(
            "no route for destination \"{destination}\" (routes: {}); add a [[route]] for it, or correct what sends there",
            routes.join(", ")
        )
    }
}

/// What is done about the destinations that routes name one by one, before anything is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Nothing is published before all of them exist; until then it is said which do not. Needs no permission on RabbitMQ.
    #[default]
    Check,
    /// What does not exist is made: durable quorum queues and topic exchanges, or Kafka topics.
    Declare,
    /// Nothing. Rows for one that does not exist are parked.
    None,
}

/// A sink as it is configured.
#[derive(Clone)]
pub struct Sink {
    /// Its name in routes and logs.
    pub name: String,
    /// What publishes.
    pub transport: Arc<dyn Transport>,
    /// How much may be in flight on it. The publisher may take less.
    pub window: Window,
    /// What is done about `destinations`.
    pub topology: Topology,
    /// The destinations that are known beforehand: routes without `*`.
    pub destinations: Vec<Destination>,
}

impl Sink {
    /// A sink with the default window.
    #[must_use]
    pub fn new(name: impl Into<String>, transport: Arc<dyn Transport>) -> Self {
        let window = Window { rows_max: WINDOW_ROWS_MAX, bytes_max: WINDOW_BYTES_MAX };
        Self { name: name.into(), transport, window, topology: Topology::None, destinations: Vec::new() }
    }

    /// The same sink with its destinations checked or made when it is opened. Without this, nothing is done about them.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// The same sink with another window.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// A publisher on it, once its destinations are there.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses; [`TransportError::Missing`] when destinations do not exist.
    pub async fn open(&self) -> Result<OpenSink, TransportError> {
        match self.topology {
            _ if self.destinations.is_empty() => {}
            Topology::None => {}
            Topology::Declare => self.transport.make(&self.destinations).await?,
            Topology::Check => {
                let what = self.transport.missing(&self.destinations).await?;
                if !what.is_empty() {
                    return Err(TransportError::Missing { what });
                }
            }
        }
        Ok(OpenSink { name: self.name.clone(), publisher: self.transport.publisher().await? })
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("name", &self.name).field("window", &self.window).finish_non_exhaustive()
    }
}

/// A sink with a publisher.
pub struct OpenSink {
    /// Its name in logs.
    pub name: String,
    /// What publishes.
    pub publisher: Box<dyn Publisher>,
}

impl fmt::Debug for OpenSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSink").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Outcomes of the first sink that has some, and its index. Cancel safe, as the publishers are.
pub async fn settled(sinks: &mut [OpenSink]) -> (usize, Vec<(Token, Outcome)>) {
    if let [only] = sinks {
        return (0, only.publisher.settled().await);
    }
    let each = sinks.iter_mut().map(|sink| sink.publisher.settled().boxed());
    let (outcomes, sink, _) = select_all(each).await;
    (sink, outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Order, Poison};

    #[test]
    fn patterns() {
        let fixed = |text: &str| text.parse::<Pattern>().unwrap().fixed();
        assert_eq!(fixed("topic:orders"), Some("topic:orders".parse().unwrap()));
        assert_eq!((fixed("topic:orders.*"), fixed("*")), (None, None));
        for (pattern, destination, matches) in [
            ("queue:*", "queue:a", true),
            ("queue:*", "topic:a", false),
            ("*", "topic:a", true),
            ("topic:orders", "topic:orders", true),
            ("topic:orders", "topic:orders2", false),
            ("topic:orders.*", "topic:orders.eu", true),
            ("topic:*.eu", "topic:orders.eu", true),
            ("topic:*.eu", "topic:orders.us", false),
            ("topic:a*b*c", "topic:a1b2c", true),
            ("topic:a*b*c", "topic:acb", false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(destination), matches, "{pattern} {destination}");
        }
        assert!("orders".parse::<Pattern>().is_err());
        assert!("queue:a b".parse::<Pattern>().is_err());
    }

    #[test]
    fn the_first_route_counts_and_an_unknown_destination_says_which_there_are() {
        let way = |sink| Way { sink, order: Order::Strict, poison: Poison::BlockKey };
        let route =
            |text: &str, sink| Route { destination: text.parse().unwrap(), way: way(sink), format: None };
        let mut routes = Routes::new(vec![route("queue:a", 0), route("queue:*", 1)]);
        let to = |text: &str| text.parse::<Destination>().unwrap();
        assert_eq!(routes.way(&to("queue:a")), Ok(way(0)));
        assert_eq!(routes.way(&to("queue:b")), Ok(way(1)));
        for _ in 0..2 {
            let reason = routes.way(&to("topic:t")).unwrap_err();
            assert!(reason.contains("topic:t") && reason.contains("\"queue:a\", \"queue:*\""), "{reason}");
        }
    }
}
