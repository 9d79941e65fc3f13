//! Messages with chosen names, and messages on their way out.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    codec::{Codec, CodecError},
    destination::Destination,
    headers::Headers,
    schedule::Due,
};

/// A type that travels under a chosen, stable name.
///
/// Derive it. The name is never a Rust path: renaming a type must not strand a stored message.
///
/// ```
/// use barid::Message;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Message)]
/// #[message(name = "orders.placed")]
/// struct OrderPlaced { order_id: u64 }
///
/// assert_eq!(OrderPlaced::NAME, "orders.placed");
/// assert_eq!(OrderPlaced::AGGREGATE, "orders");
/// ```
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The wire name, for instance `orders.placed`: `[A-Za-z0-9._-]{1,200}`.
    const NAME: &'static str;
    /// First half of the ordering key, and the topic that the event goes to. Default: the name up to its first dot.
    const AGGREGATE: &'static str = first_segment(Self::NAME);
    /// The events that this one is as well: who handles one of them gets it too. Declared by `extends(..)`. Default: none.
    const BASES: &'static [Base] = &[];
}

/// An event that other events extend. Made by the derive macro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    name: &'static str,
    aggregate: &'static str,
    bases: &'static [Self],
}

impl Base {
    /// The event `M` and what it extends itself.
    #[must_use]
    pub const fn of<M: Message>() -> Self {
        Self { name: M::NAME, aggregate: M::AGGREGATE, bases: M::BASES }
    }

    /// The event of this name, whose type is not at hand; its aggregate is its first segment.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self { name, aggregate: first_segment(name), bases: &[] }
    }
}

/// `name` up to its first dot, or all of it.
#[must_use]
pub const fn first_segment(name: &str) -> &str {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != b'.' {
        at += 1;
    }
    name.split_at(at).0
}

/// A message that a handler sends: the body, and what may be said about it. A plain [`Message`] converts into one.
///
/// ```
/// # use barid::{Message, Outgoing};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.placed")]
/// # struct OrderPlaced { order_id: u64 }
/// let outgoing = Outgoing::new(OrderPlaced { order_id: 7 })
///     .key(7)
///     .header("tenant", "blue");
/// # let _ = outgoing;
/// ```
#[must_use = "an outgoing message does nothing until it is published or sent"]
pub struct Outgoing {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) aggregate: String,
    pub(crate) key: Option<String>,
    pub(crate) to: Option<Destination>,
    /// The events that it is as well, nearest first, each once.
    pub(crate) bases: Vec<BaseName>,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
    /// When it leaves, unless that is with the commit.
    pub(crate) due: Option<Due>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseName {
    pub(crate) name: String,
    pub(crate) aggregate: String,
}

pub(crate) enum Body {
    Typed(Box<dyn erased_serde::Serialize + Send + Sync>),
    Raw(Option<Bytes>),
}

impl Outgoing {
    /// An outgoing `message` with a new UUIDv7 as id.
    pub fn new<M: Message>(message: M) -> Self {
        let mut outgoing = Self::with_body(M::NAME, M::AGGREGATE, Body::Typed(Box::new(message)));
        let mut next = M::BASES.to_vec();
        while !next.is_empty() {
            let level = std::mem::take(&mut next);
            for base in level {
                outgoing.add_base(base.name, base.aggregate);
                next.extend(base.bases);
            }
        }
        outgoing
    }

    /// An outgoing message whose bytes are ready; `None` is a tombstone.
    pub fn raw(name: &str, body: impl Into<Option<Bytes>>) -> Self {
        Self::with_body(name, first_segment(name), Body::Raw(body.into()))
    }

    fn with_body(name: &str, aggregate: &str, body: Body) -> Self {
        Self {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            aggregate: aggregate.to_owned(),
            key: None,
            to: None,
            bases: Vec::new(),
            headers: Headers::new(),
            body,
            due: None,
        }
    }

    fn add_base(&mut self, name: &str, aggregate: &str) {
        if name != self.name && self.bases.iter().all(|base| base.name != name) {
            self.bases.push(BaseName { name: name.to_owned(), aggregate: aggregate.to_owned() });
        }
    }

    /// Says that it is also an event of this name: who handles that one gets it too. For events without a type; a type says so
    /// with `#[message(extends(..))]`.
    pub fn extends(mut self, name: &str) -> Self {
        self.add_base(name, first_segment(name));
        self
    }

    /// Keeps it in order with all other messages of this key and the same aggregate.
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// Overrides the aggregate, the first half of the ordering key.
    pub fn aggregate(mut self, aggregate: impl Into<String>) -> Self {
        self.aggregate = aggregate.into();
        self
    }

    /// Sends it there instead of where its route says.
    pub fn to(mut self, destination: Destination) -> Self {
        self.to = Some(destination);
        self
    }

    /// Sets a header. What is set here wins over every default.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Gives it an id instead of a new one. Two messages with one id are one message to every idempotent receiver.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// The bytes of the body.
    pub(crate) fn encode(&self, codec: &dyn Codec) -> Result<Option<Bytes>, CodecError> {
        match &self.body {
            Body::Typed(message) => codec.encode(message.as_ref()).map(|bytes| Some(bytes.into())),
            Body::Raw(bytes) => Ok(bytes.clone()),
        }
    }
}

impl<M: Message> From<M> for Outgoing {
    fn from(message: M) -> Self {
        Self::new(message)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("key", &self.key)
            .field("to", &self.to)
            .field("bases", &self.bases)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aggregate_is_the_first_segment() {
        for (name, first) in [("orders.placed", "orders"), ("orders", "orders"), ("a.b.c", "a"), (".x", "")] {
            assert_eq!(first_segment(name), first);
        }
    }

    #[derive(Serialize, serde::Deserialize, crate::Message)]
    #[message(name = "audit.entry", aggregate = "trail")]
    struct Entry;

    #[derive(Serialize, serde::Deserialize, crate::Message)]
    #[message(name = "orders.placed", extends(Entry))]
    struct Placed;

    #[derive(Serialize, serde::Deserialize, crate::Message)]
    #[message(name = "orders.placed_express", extends(Placed, "express.started", Entry))]
    struct Express;

    #[test]
    fn bases_are_listed_nearest_first_and_each_once() {
        let outgoing = Outgoing::new(Express);
        let bases: Vec<_> =
            outgoing.bases.iter().map(|base| (base.name.as_str(), base.aggregate.as_str())).collect();
        assert_eq!(
            bases,
            [("orders.placed", "orders"), ("express.started", "express"), ("audit.entry", "trail")]
        );
        assert!(Outgoing::new(Entry).bases.is_empty());
    }
}
