//! Events on their way into a stream, and events in it.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::EventStoreError;
use crate::{
    codec::{Codec, Json},
    destination::checked_name,
    headers::{self, Headers},
    limits,
    message::Message,
};

/// The name of a stream: what happened to one thing. 1 to 200 bytes of text without control characters.
///
/// ```
/// use barid::event_store::StreamName;
/// assert_eq!(StreamName::of("order", 7)?.as_str(), "order-7");
/// # Ok::<(), barid::event_store::EventStoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

impl StreamName {
    /// The stream of this name.
    ///
    /// # Errors
    /// [`EventStoreError::StreamName`].
    pub fn new(name: impl Into<String>) -> Result<Self, EventStoreError> {
        let name = name.into();
        let fits = (1..=limits::NAME_BYTES_MAX).contains(&name.len());
        if fits && !name.chars().any(char::is_control) {
            Ok(Self(name))
        } else {
            Err(EventStoreError::StreamName { name })
        }
    }

    /// The stream of the thing `id` of a kind: `KIND-ID`.
    ///
    /// # Errors
    /// [`EventStoreError::StreamName`].
    pub fn of(kind: &str, id: impl fmt::Display) -> Result<Self, EventStoreError> {
        Self::new(format!("{kind}-{id}"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What who appends knows of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: append behind whatever is there.
    Any,
    /// That it has no events.
    NoStream,
    /// That it is at this version: has so many events. 0 is the same as [`Expected::NoStream`].
    Version(u64),
}

impl Expected {
    /// The version that the stream must have, if it matters.
    #[must_use]
    pub fn version(self) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::NoStream => Some(0),
            Self::Version(version) => Some(version),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream | Self::Version(0) => f.write_str("a stream without events"),
            Self::Version(version) => write!(f, "version {version}"),
        }
    }
}

/// An event that is to be appended. A plain [`Message`] converts into one; its name is the message's.
#[must_use = "an event does nothing until it is appended"]
pub struct NewEvent {
    id: Uuid,
    name: String,
    headers: Headers,
    body: Body,
}

enum Body {
    Typed(Box<dyn erased_serde::Serialize + Send + Sync>),
    Raw(Bytes),
}

impl NewEvent {
    /// An event with a new UUIDv7 as id.
    pub fn new<M: Message>(event: M) -> Self {
        Self::with(M::NAME.to_owned(), Body::Typed(Box::new(event)))
    }

    /// An event whose bytes are ready.
    pub fn raw(name: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::with(name.into(), Body::Raw(data.into()))
    }

    fn with(name: String, body: Body) -> Self {
        Self { id: Uuid::now_v7(), name, headers: Headers::new(), body }
    }

    /// Gives it an id instead of a new one. No two events of a store have the same.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Sets a header. What is set here wins over what the context says.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Encoded, with the headers that it lacks.
    pub(crate) fn encode(
        self,
        stream: &StreamName,
        codec: &dyn Codec,
        defaults: &Headers,
    ) -> Result<EncodedEvent, EventStoreError> {
        let Self { id, name, mut headers, body } = self;
        let name = checked_name(name.clone()).map_err(|_| EventStoreError::EventName { name })?;
        let data = match body {
            Body::Raw(data) => data,
            Body::Typed(event) => {
                headers.set_default(headers::CONTENT_TYPE, || codec.content_type().to_owned());
                let encoded = codec.encode(event.as_ref());
                encoded.map(Bytes::from).map_err(|error| EventStoreError::Codec {
                    what: format!("event {name:?} for stream {stream} cannot be encoded"),
                    cause: error.to_string(),
                })?
            }
        };
        for (header, value) in defaults.iter() {
            headers.set_default(header, || value.to_owned());
        }
        headers.set_default(headers::CORRELATION_ID, || id.to_string());
        Ok(EncodedEvent { id, name, headers, data })
    }
}

impl<M: Message> From<M> for NewEvent {
    fn from(event: M) -> Self {
        Self::new(event)
    }
}

impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// An event as it is written.
#[derive(Clone, Debug)]
pub(crate) struct EncodedEvent {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) headers: Headers,
    pub(crate) data: Bytes,
}

/// An event in its stream.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// Its id.
    pub id: Uuid,
    /// The stream.
    pub stream: String,
    /// Its number in the stream, from 1.
    pub version: u64,
    /// Its number among the events of all streams, from 1. `None` as long as nobody has read all streams since its commit.
    pub position: Option<u64>,
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub data: Bytes,
    /// What else is known of it: correlation, causation, trace, and what was set when it was appended.
    pub headers: Headers,
    /// When it was appended, by the database's clock: the beginning of its transaction on PostgreSQL, its insert elsewhere.
    pub recorded_at: DateTime<Utc>,
}

impl RecordedEvent {
    /// The event as an `M`, which was encoded as JSON.
    ///
    /// # Errors
    /// [`EventStoreError::Codec`] when it has another name, or its bytes are something else.
    pub fn decode<M: Message>(&self) -> Result<M, EventStoreError> {
        if self.name != M::NAME {
            return Err(self.undecodable(format!("its name is not {:?}", M::NAME)));
        }
        self.decode_with(&Json)
    }

    /// The event as a `T`, whatever its name, by another codec.
    ///
    /// # Errors
    /// [`EventStoreError::Codec`].
    pub fn decode_with<T: DeserializeOwned>(&self, codec: &dyn Codec) -> Result<T, EventStoreError> {
        let mut decoded = None;
        let read = &mut |from: &mut dyn erased_serde::Deserializer<'_>| {
            decoded = Some(erased_serde::deserialize(from)?);
            Ok(())
        };
        codec.decode(&self.data, read).map_err(|error| self.undecodable(error.to_string()))?;
        decoded.ok_or_else(|| self.undecodable("the codec showed nothing".to_owned()))
    }

    fn undecodable(&self, cause: String) -> EventStoreError {
        let Self { name, stream, version, .. } = self;
        EventStoreError::Codec {
            what: format!("event {name:?}, number {version} of stream {stream:?}"),
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams_are_checked_once() {
        for name in ["a", "order-7", "Auftr\u{e4}ge \u{1f600}", " ", &"x".repeat(limits::NAME_BYTES_MAX)] {
            assert_eq!(StreamName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a\0b", "a\nb", &"x".repeat(limits::NAME_BYTES_MAX + 1)] {
            assert!(matches!(StreamName::new(name), Err(EventStoreError::StreamName { .. })), "{name:?}");
        }
    }

    #[test]
    fn what_an_event_says_itself_wins_over_the_context() {
        let stream = StreamName::new("s").unwrap();
        let context = Headers::from_iter([(headers::CORRELATION_ID, "theirs"), (headers::SOURCE, "bus")]);
        let event = NewEvent::raw("e", "x").header(headers::CORRELATION_ID, "mine");
        let encoded = event.encode(&stream, &Json, &context).unwrap();
        assert_eq!(encoded.headers.get(headers::CORRELATION_ID), Some("mine"));
        assert_eq!(encoded.headers.get(headers::SOURCE), Some("bus"));
        let alone = NewEvent::raw("e", "x").encode(&stream, &Json, &Headers::new()).unwrap();
        assert_eq!(alone.headers.get(headers::CORRELATION_ID), Some(&*alone.id.to_string()));
        let refused = NewEvent::raw("e f", "x").encode(&stream, &Json, &Headers::new());
        assert!(matches!(refused, Err(EventStoreError::EventName { .. })));
    }
}
