//! What came back: the answer to a request, and the result of a message that somebody polls for.

use bytes::Bytes;
use serde::Serialize;

use super::{Problem, problem};
use crate::{
    codec::Codec,
    error::{Error, Result},
    handler::decoded,
    headers,
    message::Message,
    store::results::{FAILED, ResultRow, SUCCEEDED},
    transport::Delivery,
};

/// An answer as it arrived.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply { name: String, body: Bytes },
    Failed(Problem),
}

impl Answer {
    pub(crate) fn read(delivery: &Delivery) -> Self {
        let name = delivery.headers.get(headers::TYPE).unwrap_or_default();
        if name == problem::FAILED_NAME {
            let problem = serde_json::from_slice(&delivery.body);
            return Self::Failed(
                problem.unwrap_or_else(|_| Problem::new("The message could not be handled")),
            );
        }
        Self::Reply { name: name.to_owned(), body: delivery.body.clone() }
    }
}

/// Decodes a body as `M`, after comparing the names.
pub(crate) fn decode<M: Message>(codec: &dyn Codec, name: &str, body: &[u8]) -> Result<M, String> {
    if name != M::NAME {
        return Err(format!("it is a message {name:?}, and {:?} was expected", M::NAME));
    }
    decoded(codec, body).map_err(|error| error.to_string())
}

/// What became of a message that somebody polls for.
///
/// Serializes as `{"status":"accepted"}`, `{"status":"succeeded"}` or `{"status":"failed","problem":{..}}`, for a front end
/// that passes it on; the data of a success is bytes in the encoding of the bus, and is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
#[non_exhaustive]
pub enum MessageResult {
    /// It was sent, and nobody has finished it: it waits, is being handled, or will be tried again.
    Accepted,
    /// Its handlers committed.
    Succeeded {
        /// The name of what the handler answered; `None` when it answered nothing.
        #[serde(skip)]
        name: Option<String>,
        /// How `data` is encoded.
        #[serde(skip)]
        content_type: Option<String>,
        /// What the handler answered.
        #[serde(skip)]
        data: Option<Bytes>,
    },
    /// It was given up and is a dead letter.
    Failed {
        /// Why.
        problem: Problem,
    },
}

impl MessageResult {
    /// Whether it is final: nothing but replaying a dead letter changes it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        *self != Self::Accepted
    }

    pub(crate) fn from_row(row: ResultRow) -> Result<Self> {
        match row.state.as_str() {
            SUCCEEDED => {
                Ok(Self::Succeeded { name: row.name, content_type: row.content_type, data: row.data })
            }
            FAILED => {
                let problem = serde_json::from_str(&row.problem.unwrap_or_default());
                let problem = problem.map_err(|error| {
                    Error::from(error).context(format!("the problem of result {}", row.message_id))
                })?;
                Ok(Self::Failed { problem })
            }
            _ => Ok(Self::Accepted),
        }
    }
}
