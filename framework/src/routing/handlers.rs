//! The handlers of a bus by wire name.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::{Error, Result},
    handler::Erased,
    headers,
    incoming::Incoming,
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

    /// The handlers of a message: those of its name first, then those of each base that it says it has. None only for an
    /// event: its topic carries events of other names too, and those are not for this bus.
    pub(crate) fn of(&self, message: &Incoming) -> Result<Vec<&Arc<dyn Erased>>> {
        let bases = message.headers.get(headers::BASES).unwrap_or_default().split(',');
        let mut names = vec![message.name.as_str()];
        for base in bases.map(str::trim).filter(|base| !base.is_empty()) {
            if !names.contains(&base) {
                names.push(base);
            }
        }
        let found: Vec<_> = names.iter().filter_map(|name| self.0.get(*name)).flatten().collect();
        if found.is_empty() && message.headers.get(headers::TOPIC).is_none() {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            return Err(Error::permanent(format!(
                "no handler for message {:?}; this bus handles {}",
                message.name,
                known.join(", ")
            )));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, handler::Typed, transport::Repeat};

    #[derive(serde::Serialize, serde::Deserialize, crate::Message)]
    #[message(name = "any")]
    struct Any;

    async fn one(_: Any) -> Result<()> {
        Ok(())
    }

    async fn two(_: Any) -> Result<()> {
        Ok(())
    }

    fn message(name: &str, pairs: &[(&str, &str)]) -> Incoming {
        Incoming {
            id: uuid::Uuid::nil(),
            name: name.to_owned(),
            headers: Headers::from_iter(pairs.iter().copied()),
            body: bytes::Bytes::new(),
            source: "q".to_owned(),
            repeat: Repeat::First,
        }
    }

    #[test]
    fn the_handlers_of_the_name_come_before_those_of_its_bases() {
        let mut handlers = Handlers::default();
        handlers.add("placed", Arc::new(Typed::<_, Any, _>::new(two)));
        handlers.add("placed_express", Arc::new(Typed::<_, Any, _>::new(one)));
        let names = |message: &Incoming| -> Vec<&str> {
            handlers.of(message).unwrap().iter().map(|handler| handler.type_name()).collect()
        };
        let (one, two) = (std::any::type_name_of_val(&one), std::any::type_name_of_val(&two));
        assert_eq!(names(&message("placed_express", &[(headers::BASES, "placed,other")])), [one, two]);
        assert_eq!(names(&message("unheard_of", &[(headers::BASES, "other, placed")])), [two]);
        assert_eq!(names(&message("placed", &[(headers::BASES, "placed")])), [two]);
    }

    #[test]
    fn an_event_without_handlers_is_none_of_our_business_and_a_command_is_an_error() {
        let mut handlers = Handlers::default();
        handlers.add("placed", Arc::new(Typed::<_, Any, _>::new(one)));
        assert!(handlers.of(&message("cancelled", &[(headers::TOPIC, "orders")])).unwrap().is_empty());
        let said = handlers.of(&message("cancel", &[])).err().unwrap().to_string();
        assert!(said.contains("\"cancel\"") && said.contains("placed"), "{said}");
    }
}
