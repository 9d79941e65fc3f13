//! From a message name to the handlers that take it, and to the destination it goes to.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    destination::Destination,
    error::{Error, Result},
    handler::Erased,
    message::Outgoing,
};

/// The handlers of a bus by wire name, in the order of their registration.
#[derive(Default)]
pub(crate) struct Handlers(BTreeMap<String, Vec<Arc<dyn Erased>>>);

impl Handlers {
    pub(crate) fn add(&mut self, name: &str, handler: Arc<dyn Erased>) {
        self.0.entry(name.to_owned()).or_default().push(handler);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Erased>)> {
        self.0
            .iter()
            .flat_map(|(name, handlers)| handlers.iter().map(move |handler| (name.as_str(), handler)))
    }

    /// The handlers of `name`, which may be none.
    pub(crate) fn find(&self, name: &str) -> &[Arc<dyn Erased>] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The handlers of `name`, for a message to people.
    pub(crate) fn names(&self, name: &str) -> String {
        self.find(name).iter().map(|handler| handler.type_name()).collect::<Vec<_>>().join(", ")
    }

    /// The handlers of `name`.
    pub(crate) fn of(&self, name: &str) -> Result<&[Arc<dyn Erased>]> {
        self.0.get(name).map(Vec::as_slice).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            Error::permanent(format!(
                "no handler for message {name:?}; this bus handles {}",
                known.join(", ")
            ))
        })
    }
}

/// Where messages go that do not say so themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(BTreeMap<String, Destination>);

impl Routes {
    pub(crate) fn add(&mut self, name: &str, to: Destination) {
        self.0.insert(name.to_owned(), to);
    }

    /// The destination of a command.
    pub(crate) fn owner(&self, name: &str) -> Result<&Destination> {
        self.0.get(name).ok_or_else(|| {
            let known: Vec<_> = self.0.iter().map(|(name, to)| format!("{name} -> {to}")).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            Error::permanent(format!(
                "no route for message {name:?}; routes: {known}. Call .route(\"{name}\", ..) on the builder, or .to(..) on the message"
            ))
        })
    }

    /// Where an outgoing message goes: what it says itself, its route, or the topic of its aggregate.
    pub(crate) fn of(&self, message: &Outgoing) -> Result<Destination> {
        if let Some(to) = &message.to {
            return Ok(to.clone());
        }
        if let Some(to) = self.0.get(&message.name) {
            return Ok(to.clone());
        }
        Ok(Destination::topic(message.aggregate.clone())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_goes_to_the_topic_of_its_aggregate_unless_it_or_a_route_says_otherwise() {
        let mut routes = Routes::default();
        let event = || Outgoing::raw("orders.placed", None);
        assert_eq!(routes.of(&event()).unwrap().to_string(), "topic:orders");
        routes.add("orders.placed", Destination::queue("audit").unwrap());
        assert_eq!(routes.of(&event()).unwrap().to_string(), "queue:audit");
        let explicit = event().to(Destination::topic("special").unwrap());
        assert_eq!(routes.of(&explicit).unwrap().to_string(), "topic:special");
    }

    #[test]
    fn a_missing_route_lists_the_routes() {
        let mut routes = Routes::default();
        routes.add("orders.place", Destination::queue("orders").unwrap());
        let said = routes.owner("orders.cancel").unwrap_err().to_string();
        assert!(said.contains("orders.cancel") && said.contains("orders.place -> queue:orders"), "{said}");
    }
}
