//! Bytes and typed messages: how a body is encoded.

use erased_serde::{Deserializer, Serialize};

/// How message bodies become bytes and back. [`Json`] is the default of every bus.
pub trait Codec: Send + Sync + 'static {
    /// What goes into the `content-type` header.
    fn content_type(&self) -> &'static str;

    /// The bytes of a message.
    ///
    /// # Errors
    /// When the message's own `Serialize` fails (a map with keys that are no text, for instance).
    fn encode(&self, message: &dyn Serialize) -> Result<Vec<u8>, CodecError>;

    /// Shows a deserializer over `body` to `read`.
    ///
    /// # Errors
    /// What `read` returned, or that bytes follow the message.
    fn decode(
        &self,
        body: &[u8],
        read: &mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError>;
}

/// A body that cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

/// JSON by `serde_json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&self, message: &dyn Serialize) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(message).map_err(|error| CodecError(error.to_string()))
    }

    fn decode(
        &self,
        body: &[u8],
        read: &mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), CodecError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        read(&mut <dyn Deserializer<'_>>::erase(&mut json)).map_err(|error| CodecError(error.to_string()))?;
        json.end().map_err(|error| CodecError(error.to_string()))
    }
}
