//! The state of a stream at a version, so that not all events have to be read.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{EventStoreError, StreamName};

/// A state that was made from the first `version` events of a stream.
///
/// A snapshot is a copy of what the events say: losing it costs time and nothing else. Each `format` has its own: a program that
/// writes a newer one leaves the older one to programs that still read it, and nobody reads a state that it does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The version of the stream.
    pub version: u64,
    /// Which shape the state has: a number of yours, higher with each change.
    pub format: u32,
    /// The state.
    pub data: Bytes,
}

impl Snapshot {
    /// A state as JSON.
    ///
    /// # Errors
    /// [`EventStoreError::Codec`] when it cannot be encoded.
    pub fn json(version: u64, format: u32, state: &impl Serialize) -> Result<Self, EventStoreError> {
        let data = serde_json::to_vec(state).map_err(|error| EventStoreError::Codec {
            what: format!("a snapshot at version {version}"),
            cause: error.to_string(),
        })?;
        Ok(Self { version, format, data: data.into() })
    }

    /// The state of a snapshot that was made with [`Snapshot::json`].
    ///
    /// # Errors
    /// [`EventStoreError::Codec`] when it is something else.
    pub fn state<T: DeserializeOwned>(&self, stream: &StreamName) -> Result<T, EventStoreError> {
        serde_json::from_slice(&self.data).map_err(|error| EventStoreError::Codec {
            what: format!("the snapshot of stream {stream} at version {}", self.version),
            cause: error.to_string(),
        })
    }
}
