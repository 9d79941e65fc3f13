//! How a message looks on the wire when its sender decides that, and not the transport.
//!
//! Made by whoever speaks the format of somebody else (the relay's formats); carried by [`OutgoingRow`](super::OutgoingRow).
//! Opaque to the publishers: they send exactly this.

/// The headers of a message and what else a broker takes beside its body, in place of what a transport would make of the row's
/// columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// All headers, in this order. A name may occur twice on Kafka; elsewhere the last one counts. `None` is Kafka's null, and no
    /// header elsewhere.
    pub headers: Vec<(String, Option<String>)>,
    /// AMQP's property `content-type`. Kafka has no properties: there it means nothing.
    pub content_type: Option<String>,
    /// Kafka: the partition. By default the record's key chooses it.
    pub partition: Option<i32>,
}

impl Wire {
    /// Adds a header behind the others.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.headers.push((name.into(), Some(value.into())));
    }

    /// The headers that have a value.
    pub fn each(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }
}
