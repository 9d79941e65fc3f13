//! Where a message goes: `queue:NAME` for one receiver, `topic:NAME` for all who subscribed.
//!
//! Parsed once, at the border. What a name means is decided by the transport: on RabbitMQ a queue is reached through the
//! default exchange and a topic is an exchange; on Kafka both are topics; in SQL a queue is a column value and a topic
//! stands for one row per subscription.

use std::{fmt, str::FromStr};

use crate::limits::NAME_BYTES_MAX;

/// `queue:NAME` or `topic:NAME`, with NAME matching `[A-Za-z0-9._-]{1,200}`.
///
/// ```
/// use barid::Destination;
/// let to: Destination = "queue:shipping".parse()?;
/// assert_eq!(to, Destination::queue("shipping")?);
/// assert!("shipping".parse::<Destination>().is_err());
/// # Ok::<(), barid::destination::DestinationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// One queue, by name.
    Queue(String),
    /// Every subscriber of a topic.
    Topic(String),
}

/// A destination or a name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// The text starts with neither `queue:` nor `topic:`.
    #[error("destination {0:?} is neither \"queue:NAME\" nor \"topic:NAME\"")]
    Kind(String),
    /// The name is empty, too long, or has a character that a broker would refuse.
    #[error("name {0:?} is not 1 to {NAME_BYTES_MAX} characters out of A-Z a-z 0-9 . _ -")]
    Name(String),
}

impl Destination {
    /// The queue `name`.
    ///
    /// # Errors
    /// [`DestinationError::Name`] when the name has a character outside `[A-Za-z0-9._-]` or is empty or too long.
    pub fn queue(name: impl Into<String>) -> Result<Self, DestinationError> {
        checked_name(name.into()).map(Self::Queue)
    }

    /// The topic `name`.
    ///
    /// # Errors
    /// As for [`Destination::queue`].
    pub fn topic(name: impl Into<String>) -> Result<Self, DestinationError> {
        checked_name(name.into()).map(Self::Topic)
    }

    /// NAME, without the kind.
    #[must_use]
    pub fn name(&self) -> &str {
        let (Self::Queue(name) | Self::Topic(name)) = self;
        name
    }
}

/// Checks that `name` may be the name of a queue, a topic or a message.
///
/// # Errors
/// [`DestinationError::Name`] when it may not.
pub fn checked_name(name: String) -> Result<String, DestinationError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name)
    } else {
        Err(DestinationError::Name(name))
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("queue", name)) => Self::queue(name),
            Some(("topic", name)) => Self::topic(name),
            _ => Err(DestinationError::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue:{name}"),
            Self::Topic(name) => write!(f, "topic:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["queue:shipping", "topic:orders", "queue:A-b_c.9"] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_a_broker_would_refuse() {
        let long = format!("queue:{}", "x".repeat(NAME_BYTES_MAX + 1));
        for text in ["", "queue:", "topic:a b", "exchange:x", "queue:a/b", "topic:\u{e9}", long.as_str()] {
            assert!(text.parse::<Destination>().is_err(), "{text:?} was accepted");
        }
    }
}
