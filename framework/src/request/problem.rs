//! Problem details, as RFC 9457 has them: how a failure is told to whoever asked.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The wire name of an answer that says that the request failed.
pub(crate) const FAILED_NAME: &str = "barid.failed";
/// How its body is encoded, whatever the codec of the bus is.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// Why a message failed (RFC 9457). A handler may return one as its error, and whoever asked gets exactly that; every other
/// error is told with its text as `detail`.
///
/// ```
/// use barid::{Disposition, Error, request::Problem};
/// let sold_out = Problem::new("The article is sold out").kind("https://example.com/sold-out").status(409);
/// let error = Error::from(sold_out).with(Disposition::DeadLetter); // trying again cannot help
/// # let _ = error;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem; `about:blank` when there is none.
    #[serde(rename = "type", default = "blank")]
    pub kind: String,
    /// What is wrong, the same for every problem of the kind.
    #[serde(default)]
    pub title: String,
    /// The HTTP status that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What is wrong with this message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A URI that names this occurrence; `urn:uuid:` and the message's id when nobody set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

fn blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// A problem without a kind of its own.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { kind: blank(), title: title.into(), status: None, detail: None, instance: None }
    }

    /// Sets the URI that names the kind of problem.
    #[must_use]
    pub fn kind(mut self, uri: impl Into<String>) -> Self {
        self.kind = uri.into();
        self
    }

    /// Sets the HTTP status that fits.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets what is wrong with this message.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// What is told of a message that was given up.
    pub(crate) fn of(error: &Error, message_id: uuid::Uuid) -> Self {
        let mut problem = match error.cause().downcast_ref::<Self>() {
            Some(problem) => problem.clone(),
            None => {
                let detail = error.to_string();
                Self::new("The message could not be handled").status(500).detail(detail)
            }
        };
        problem.instance.get_or_insert_with(|| message_id.urn().to_string());
        problem
    }

    /// As JSON that every database takes: none of them has a place for NUL in a text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned()).replace("\\u0000", "\\ufffd")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_own_problem_is_told_as_it_is_and_any_other_error_by_its_text() {
        let id = uuid::Uuid::nil();
        let own = Problem::new("Sold out").status(409);
        let told = Problem::of(&Error::from(own.clone()).context("placing"), id);
        assert_eq!((told.title, told.status), (own.title, own.status));
        let told = Problem::of(&Error::new("disk\0full"), id);
        assert_eq!(told.detail.as_deref(), Some("disk\0full"));
        let json = told.to_json();
        assert!(!json.contains("u0000"), "{json}");
        let back: Problem = serde_json::from_str(&json).unwrap();
        assert_eq!(back.instance.as_deref(), Some("urn:uuid:00000000-0000-0000-0000-000000000000"));
        assert_eq!(serde_json::from_str::<Problem>("{}").unwrap(), Problem::new(""));
    }
}
