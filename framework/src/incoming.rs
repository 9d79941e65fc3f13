//! A message as the pipeline sees it: parsed once at the border, with an id that is a UUID.

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    headers::{self, Headers},
    transport::{Delivery, Repeat},
};

/// The namespace of ids that were no UUIDs: UUIDv5 of (source, id) within it.
pub const FOREIGN_ID_NAMESPACE: Uuid = Uuid::from_u128(0x6a1b_6f0e_8c5d_4d0b_9a44_6261_7269_6421);

/// One received message.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The message id, or the UUIDv5 that stands for an id that is no UUID.
    pub id: Uuid,
    /// The wire name; empty when the sender gave none.
    pub name: String,
    /// All headers as they arrived.
    pub headers: Headers,
    /// The body as it arrived.
    pub body: Bytes,
    /// The queue or topic that it came from.
    pub source: String,
    /// Whether this may be a repeated delivery.
    pub repeat: Repeat,
}

impl Incoming {
    /// Takes the message out of a delivery, whose settlement stays.
    ///
    /// # Errors
    /// When it has no id: without one neither idempotency nor counting attempts is possible. The text says so, and nothing was
    /// taken.
    pub(crate) fn read(delivery: &mut Delivery) -> Result<Self, String> {
        let id = delivery.headers.get(headers::ID).unwrap_or_default();
        if id.is_empty() {
            return Err(format!(
                "the message has no id (header {:?}): it can neither be recognised when it comes again nor counted",
                headers::ID
            ));
        }
        let sender = delivery.headers.get(headers::SOURCE).unwrap_or(&delivery.source);
        let id = id.parse().unwrap_or_else(|_| foreign_id(sender, id));
        Ok(Self {
            id,
            name: delivery.headers.get(headers::TYPE).unwrap_or_default().to_owned(),
            headers: std::mem::take(&mut delivery.headers),
            body: std::mem::take(&mut delivery.body),
            source: std::mem::take(&mut delivery.source),
            repeat: delivery.repeat,
        })
    }
}

/// The UUID that stands for the id `id` of sender `source`.
#[must_use]
pub fn foreign_id(source: &str, id: &str) -> Uuid {
    Uuid::new_v5(&FOREIGN_ID_NAMESPACE, format!("{source}\0{id}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_ids_are_stable_and_differ_by_sender() {
        assert_eq!(foreign_id("legacy", "42"), foreign_id("legacy", "42"));
        assert_ne!(foreign_id("legacy", "42"), foreign_id("other", "42"));
        assert_ne!(foreign_id("a", "b\0c"), foreign_id("a\0b", "d"));
    }
}
