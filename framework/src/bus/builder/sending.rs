//! Where a bus sends to, and what it subscribes to.

use std::sync::Arc;

use super::{BusBuilder, problems::Problems};
use crate::{
    background::Background,
    bus::sending::AskOwners,
    destination::Destination,
    message::{Message, first_segment},
    subscriptions::Subscriptions,
};

/// What a bus subscribes to when it starts.
pub(super) enum Wanted {
    /// The event of this name and aggregate; it must be possible.
    Event(&'static str, &'static str),
    /// Whatever it has handlers for.
    Handled,
}

impl BusBuilder {
    /// Where messages go whose name matches `pattern`, in which `*` stands for any characters: `orders.*`. A route for the
    /// exact name wins, then the most specific pattern; two that leave it open are an error of `build()`.
    ///
    /// A pattern that leads to a queue names the owner of commands; events that match it are still published to their topics.
    pub fn route_pattern(mut self, pattern: &str, to: Destination) -> Self {
        self.routes.add_pattern(pattern, to);
        self
    }

    /// How topics are called: from the name of an event and its aggregate. Publishers and subscribers must agree.
    ///
    /// Default: [`topic_by_aggregate`](crate::routing::topic_by_aggregate), which keeps the events of an aggregate in order and
    /// in one subscription. [`topic_by_name`](crate::routing::topic_by_name) gives each event a topic of its own.
    pub fn topic_names(mut self, convention: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        self.routes.set_topics(convention);
        self
    }

    /// Who keeps the subscriptions. Default: [`Subscriptions::native`].
    pub fn subscriptions(mut self, subscriptions: Subscriptions) -> Self {
        self.subscriptions = subscriptions;
        self
    }

    /// Subscribes to the event `M` when the bus starts.
    pub fn subscribe_to<M: Message>(mut self) -> Self {
        self.wanted.push(Wanted::Event(M::NAME, M::AGGREGATE));
        self
    }

    /// Subscribes to everything that the bus has handlers for when it starts, whatever the order in which they are registered.
    ///
    /// Left out is what this bus owns itself by its routes and, when the owners are asked for subscriptions, what no route names
    /// an owner for: both are commands.
    pub fn auto_subscribe(mut self) -> Self {
        self.wanted.push(Wanted::Handled);
        self
    }

    /// The topics of the start, put where they belong: to the inbox (native), to the returned list (a store that all share),
    /// or into requests to their owners.
    pub(super) fn subscribe_at_start(&mut self, problems: &mut Problems) -> Vec<String> {
        for problem in self.routes.problems() {
            problems.add(
                "BRD024",
                problem,
                "write patterns of which one is within the other, or an exact route",
            );
        }
        let mut topics = Vec::new();
        let mut requests = Vec::new();
        for (name, aggregate, must) in self.wanted_events() {
            let owner = self.routes.find(&name).ok().flatten().cloned();
            let own = owner.as_ref().is_some_and(|owner| self.is_own(owner));
            if own && !must {
                continue;
            }
            let topic = match self.routes.topic(&name, &aggregate) {
                Ok(topic) => topic,
                Err(error) => {
                    problems.add("BRD016", error.to_string(), "choose a name that every broker takes");
                    continue;
                }
            };
            match owner {
                _ if !self.subscriptions.owners_are_asked() => topics.push(topic),
                Some(owner) if !own => requests.push((topic, owner)),
                None if !must => tracing::info!(bus = self.name, message = name, "not subscribed: no route names its owner"),
                _ => problems.add(
                    "BRD025",
                    format!("it subscribes to {name:?} by a request to its owner, and no route to another bus names the owner; routes: {}", self.routes),
                    format!("call .route_name({name:?}, ..) with the queue of the bus that publishes it"),
                ),
            }
        }
        if !requests.is_empty() {
            requests.sort();
            requests.dedup();
            self.background.push(Arc::new(AskOwners(requests)) as Arc<dyn Background>);
        }
        let shared = self.subscriptions.store().is_some() && !self.subscriptions.owners_are_asked();
        if shared {
            topics.append(&mut self.inbox.topics);
        } else {
            self.inbox.topics.append(&mut topics);
        }
        for list in [&mut topics, &mut self.inbox.topics] {
            list.sort();
            list.dedup();
        }
        topics
    }

    /// Name and aggregate of what it subscribes to, and whether somebody asked for exactly that.
    fn wanted_events(&self) -> Vec<(String, String, bool)> {
        let mut events = Vec::new();
        for wanted in &self.wanted {
            match wanted {
                Wanted::Event(name, aggregate) => {
                    events.push(((*name).to_owned(), (*aggregate).to_owned(), true));
                }
                Wanted::Handled => {
                    let handled = self.handlers.iter().filter(|(name, _)| !name.starts_with("barid."));
                    events.extend(handled.map(|(name, handler)| {
                        let aggregate = handler.aggregate().unwrap_or_else(|| first_segment(name));
                        (name.to_owned(), aggregate.to_owned(), false)
                    }));
                }
            }
        }
        events
    }

    fn is_own(&self, owner: &Destination) -> bool {
        matches!(owner, Destination::Queue(queue) if *queue == self.inbox.queue)
    }
}
