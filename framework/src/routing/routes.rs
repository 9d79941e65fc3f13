//! Where messages go that do not say so themselves.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::pattern::Pattern;
use crate::{
    destination::{Destination, checked_name},
    error::{Error, Result},
    message::{Message, Outgoing},
};

/// From the name of an event and its aggregate to its topic.
type TopicNames = Arc<dyn Fn(&str, &str) -> String + Send + Sync>;

/// The default convention: the topic of an event is its aggregate, so that all events of an aggregate keep their order.
#[must_use]
pub fn topic_by_aggregate(_name: &str, aggregate: &str) -> String {
    aggregate.to_owned()
}

/// A topic of its own for each event: subscriptions are to exactly one name, and order is kept per name only.
#[must_use]
pub fn topic_by_name(name: &str, _aggregate: &str) -> String {
    name.to_owned()
}

/// Owners by name and by pattern, and the convention that names topics.
#[derive(Clone)]
pub(crate) struct Routes {
    exact: BTreeMap<String, Destination>,
    patterns: Vec<(Pattern, Destination)>,
    topics: TopicNames,
}

/// Where an outgoing message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this one place.
    One(Destination),
    /// To whoever subscribed to these topics, each once; its own topic is the first.
    Subscribers(Vec<String>),
}

impl Default for Routes {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), patterns: Vec::new(), topics: Arc::new(topic_by_aggregate) }
    }
}

impl Routes {
    pub(crate) fn add(&mut self, name: &str, to: Destination) {
        self.exact.insert(name.to_owned(), to);
    }

    pub(crate) fn add_pattern(&mut self, pattern: &str, to: Destination) {
        self.patterns.push((Pattern::new(pattern), to));
    }

    pub(crate) fn set_topics(&mut self, topics: impl Fn(&str, &str) -> String + Send + Sync + 'static) {
        self.topics = Arc::new(topics);
    }

    /// The topic of an event.
    pub(crate) fn topic(&self, name: &str, aggregate: &str) -> Result<String> {
        let topic = (self.topics)(name, aggregate);
        checked_name(topic).map_err(|error| {
            Error::permanent(format!(
                "the convention for topic names has no topic for event {name:?}: {error}"
            ))
        })
    }

    /// [`Routes::topic`] of a type.
    pub(crate) fn topic_of<M: Message>(&self) -> Result<String> {
        self.topic(M::NAME, M::AGGREGATE)
    }

    /// The route of a name: the exact one, or that of the most specific pattern.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&Destination>> {
        if let Some(to) = self.exact.get(name) {
            return Ok(Some(to));
        }
        let matching = || self.patterns.iter().filter(|(pattern, _)| pattern.matches(name));
        let Some(best) = matching().max_by_key(|(pattern, _)| pattern.literals()) else {
            return Ok(None);
        };
        match matching().find(|other| ambiguous(best, other)) {
            Some(other) => Err(Error::permanent(two_owners(best, other))),
            None => Ok(Some(&best.1)),
        }
    }

    /// The destination of a command.
    pub(crate) fn owner(&self, name: &str) -> Result<&Destination> {
        self.find(name)?.ok_or_else(|| {
            Error::permanent(format!(
                "no route for message {name:?}; routes: {self}. Call .route(\"{name}\", ..) or .route_pattern(..) where the \
                 other routes are set, or .to(..) on the message"
            ))
        })
    }

    /// Where a message goes that is published: what it says itself, its route, or its topics. A pattern that leads to a queue
    /// names the owner of commands and says nothing about events.
    pub(crate) fn target(&self, message: &Outgoing) -> Result<Target> {
        if let Some(to) = &message.to {
            return Ok(Target::One(to.clone()));
        }
        let own = match (self.exact.get(&message.name), self.find(&message.name)?) {
            (Some(to @ Destination::Queue(_)), _) => return Ok(Target::One(to.clone())),
            (_, Some(Destination::Topic(topic))) => topic.clone(),
            _ => self.topic(&message.name, &message.aggregate)?,
        };
        let mut topics = vec![own];
        for base in &message.bases {
            let topic = self.topic(&base.name, &base.aggregate)?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        Ok(Target::Subscribers(topics))
    }

    /// What is wrong with the patterns: those that match nothing, and pairs that leave open who owns a message.
    pub(crate) fn problems(&self) -> Vec<String> {
        let wrong = self.patterns.iter().filter_map(|(pattern, _)| pattern.problem());
        let pairs = self.patterns.iter().enumerate().flat_map(|(n, one)| {
            let later = self.patterns[n + 1..].iter().filter(move |other| ambiguous(one, other));
            later.map(move |other| two_owners(one, other))
        });
        wrong.chain(pairs).collect()
    }
}

type Entry = (Pattern, Destination);

/// Whether some name matches both, they lead to different places, and neither is the more specific one.
fn ambiguous(one: &Entry, other: &Entry) -> bool {
    let (a, b) = (&one.0, &other.0);
    one.1 != other.1 && a.overlaps(b) && a.contains(b) == b.contains(a)
}

fn two_owners((a, to_a): &Entry, (b, to_b): &Entry) -> String {
    let (a, b) = (a.as_str(), b.as_str());
    format!(
        "some messages match both {a:?} -> {to_a} and {b:?} -> {to_b}, and neither pattern is the more specific one"
    )
}

/// The routes, for errors.
impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.exact.iter().map(|(name, to)| format!("{name} -> {to}"));
        let patterns = self.patterns.iter().map(|(pattern, to)| format!("{} -> {to}", pattern.as_str()));
        let all: Vec<_> = exact.chain(patterns).collect();
        if all.is_empty() { f.write_str("there are none") } else { f.write_str(&all.join(", ")) }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Routes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> Destination {
        Destination::queue(name).unwrap()
    }

    fn event() -> Outgoing {
        Outgoing::raw("orders.placed", None)
    }

    fn topics(names: &[&str]) -> Target {
        Target::Subscribers(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn an_event_goes_to_the_topic_of_its_aggregate_unless_it_or_a_route_says_otherwise() {
        let mut routes = Routes::default();
        routes.add_pattern("orders.*", queue("orders"));
        assert_eq!(routes.target(&event()).unwrap(), topics(&["orders"]));
        routes.add_pattern("orders.placed*", Destination::topic("placed").unwrap());
        assert_eq!(routes.target(&event()).unwrap(), topics(&["placed"]));
        routes.add("orders.placed", queue("audit"));
        assert_eq!(routes.target(&event()).unwrap(), Target::One(queue("audit")));
        let explicit = event().to(Destination::topic("special").unwrap());
        assert_eq!(routes.target(&explicit).unwrap().to_owned(), Target::One(explicit.to.clone().unwrap()));
    }

    #[test]
    fn an_event_goes_to_the_topics_of_its_bases_too_and_to_each_topic_once() {
        let mut routes = Routes::default();
        let express = || event().extends("orders.changed").extends("audit.entry").extends("audit.line");
        assert_eq!(routes.target(&express()).unwrap(), topics(&["orders", "audit"]));
        routes.set_topics(topic_by_name);
        let all = ["orders.placed", "orders.changed", "audit.entry", "audit.line"];
        assert_eq!(routes.target(&express()).unwrap(), topics(&all));
        routes.set_topics(|name, _| format!("prod/{name}"));
        let said = routes.target(&event()).unwrap_err().to_string();
        assert!(said.contains("orders.placed") && said.contains("prod/orders.placed"), "{said}");
    }

    #[test]
    fn the_most_specific_pattern_owns_a_command() {
        let mut routes = Routes::default();
        routes.add_pattern("*", queue("rest"));
        routes.add_pattern("orders.*", queue("orders"));
        routes.add_pattern("orders.bulk.*", queue("bulk"));
        routes.add("orders.place", queue("place"));
        for (name, to) in [
            ("orders.place", "place"),
            ("orders.cancel", "orders"),
            ("orders.bulk.place", "bulk"),
            ("billing.charge", "rest"),
        ] {
            assert_eq!(routes.owner(name).unwrap(), &queue(to), "{name}");
        }
        assert!(routes.problems().is_empty());
    }

    #[test]
    fn two_patterns_of_which_neither_is_more_specific_are_a_problem_unless_they_agree() {
        let mut routes = Routes::default();
        routes.add_pattern("orders.*", queue("orders"));
        routes.add_pattern("*.placed", queue("orders"));
        assert!(routes.problems().is_empty());
        routes.add_pattern("*.cancelled", queue("audit"));
        let said = routes.problems().join("\n");
        assert!(said.contains("\"orders.*\"") && said.contains("\"*.cancelled\""), "{said}");
        assert!(routes.owner("orders.cancelled").is_err());
        assert_eq!(routes.owner("orders.place").unwrap(), &queue("orders"));
    }

    #[test]
    fn a_missing_route_lists_the_routes_and_patterns() {
        let mut routes = Routes::default();
        let none = routes.owner("orders.cancel").unwrap_err().to_string();
        assert!(none.contains("there are none"), "{none}");
        routes.add("orders.place", queue("orders"));
        routes.add_pattern("billing.*", queue("billing"));
        let said = routes.owner("orders.cancel").unwrap_err().to_string();
        for part in ["orders.cancel", "orders.place -> queue:orders", "billing.* -> queue:billing"] {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }
    }
}
