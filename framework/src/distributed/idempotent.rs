//! Doing something once for a key, and answering with the same result ever after.
//!
//! The key, the effects and the result commit in one transaction, so there is a result if and only if the effects are there. For what
//! does not come as a message of a bus, which has its own record: a request of a web server, a transaction that is tried again.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::error::Error;

pub use crate::store::keys::IdempotentProcessor;

/// What doing something for a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed<T> {
    /// It was done now.
    Now(T),
    /// It was done before: this is what came out then.
    Before(T),
}

impl<T> Processed<T> {
    /// The result, whenever it was made.
    pub fn into_result(self) -> T {
        let (Self::Now(result) | Self::Before(result)) = self;
        result
    }
}

/// Why something was not done for a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Somebody else is doing it now. Ask again later.
    #[error("key {key:?} is in progress: another request with it has not ended; ask again later")]
    InProgress {
        /// The key.
        key: String,
    },
    /// The key was used for another request. Keys are used for one request each.
    #[error("key {key:?} was used for another request: give each request a key of its own")]
    OtherRequest {
        /// The key.
        key: String,
    },
    /// The key cannot be used.
    #[error("key {key:?} is not 1 to {max} bytes of text without control characters, not ending with a space", max = crate::limits::NAME_BYTES_MAX)]
    Key {
        /// The key.
        key: String,
    },
    /// The result cannot be kept or cannot be read back.
    #[error("the result of key {key:?}: {cause}")]
    Result {
        /// The key.
        key: String,
        /// Why not.
        cause: String,
    },
    /// The work failed. Nothing of it stays, and it may be tried again with the same key.
    #[error("key {key:?}: {cause}")]
    Failed {
        /// The key.
        key: String,
        /// Why.
        cause: Error,
    },
    /// The answer to COMMIT was lost: it was done or not. Ask again with the same key: that finds out.
    #[error(
        "nobody knows whether the work of key {key:?} was committed: {cause}; ask again with the same key"
    )]
    Unknown {
        /// The key.
        key: String,
        /// What happened to the answer.
        cause: Error,
    },
    /// The database failed before the work began, or could not say.
    #[error("key {key:?}: {cause}")]
    Database {
        /// The key.
        key: String,
        /// What it said.
        cause: Error,
    },
}

/// What a key stands for, and for how long.
#[derive(Clone, Debug)]
pub struct ProcessKey {
    pub(crate) key: String,
    pub(crate) scope: String,
    pub(crate) request: Option<Vec<u8>>,
    pub(crate) kept_for: Duration,
}

impl ProcessKey {
    /// This key. 1 to 200 bytes.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            scope: String::new(),
            request: None,
            kept_for: crate::limits::RECORDS_KEPT_FOR,
        }
    }

    /// Among the keys of a scope, such as a customer: the same key in another one is another key. Default: none.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// What was asked for: who comes with the same key and another request is refused. Kept as a hash. Default: not looked at.
    #[must_use]
    pub fn request(mut self, request: &[u8]) -> Self {
        self.request = Some(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, request).as_bytes().to_vec());
        self
    }

    /// How long the result is kept at least. Default: [`crate::limits::RECORDS_KEPT_FOR`].
    #[must_use]
    pub fn kept_for(mut self, time: Duration) -> Self {
        self.kept_for = time;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ProcessError> {
        let fits = |text: &str, min: usize| {
            (min..=crate::limits::NAME_BYTES_MAX).contains(&text.len())
                && !text.ends_with(' ')
                && !text.chars().any(char::is_control)
        };
        match fits(&self.key, 1) && fits(&self.scope, 0) {
            true => Ok(()),
            false => Err(ProcessError::Key { key: self.key.clone() }),
        }
    }

    pub(crate) fn encode(&self, result: &impl Serialize) -> Result<String, ProcessError> {
        let cannot = |cause: String| ProcessError::Result { key: self.key.clone(), cause };
        let json = serde_json::to_string(result).map_err(|error| cannot(error.to_string()))?;
        let max = crate::limits::REPLY_BYTES_MAX;
        match json.len() <= max {
            true => Ok(json),
            false => Err(cannot(format!("it has {} bytes, at most {max} are kept", json.len()))),
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, json: &str) -> Result<T, ProcessError> {
        serde_json::from_str(json).map_err(|error| ProcessError::Result {
            key: self.key.clone(),
            cause: format!("what was kept is something else: {error}"),
        })
    }
}
