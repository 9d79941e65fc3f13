//! Every well-known header name, and the small ordered map that carries them.
//!
//! Names live here and nowhere else. A header is text: whoever needs a number or an id parses it at the border.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The message id: a UUID as text. Made by the application (UUIDv7); what idempotency looks at.
pub const ID: &str = "barid-id";
/// The wire name of the message, for instance `orders.place`.
pub const TYPE: &str = "barid-type";
/// The first half of the ordering key (`aggregatetype` of the outbox row).
pub const AGGREGATE: &str = "barid-aggregate";
/// The second half of the ordering key (`aggregateid` of the outbox row); absent when the message is unordered.
pub const KEY: &str = "barid-key";
/// The conversation that a message belongs to: the id of its first message.
pub const CORRELATION_ID: &str = "barid-correlation-id";
/// The id of the message whose handler sent this one.
pub const CAUSATION_ID: &str = "barid-causation-id";
/// When the application made the message, RFC 3339 in UTC.
pub const SENT_AT: &str = "barid-sent-at";
/// The name of the bus that sent the message.
pub const SOURCE: &str = "barid-source";
/// Where an answer to the message goes: `queue:NAME` or `topic:NAME`. Set on everything that a bus with a queue sends.
pub const REPLY_TO: &str = "barid-reply-to";
/// On a reply: the id of the message that it answers.
pub const IN_REPLY_TO: &str = "barid-in-reply-to";
/// On an event: the topic that it was published to. Absent on what was sent to one queue.
pub const TOPIC: &str = "barid-topic";
/// On an event that extends others: their names, nearest first, separated by commas.
pub const BASES: &str = "barid-bases";
/// How the body is encoded, for instance `application/json`.
pub const CONTENT_TYPE: &str = "content-type";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context, vendor part.
pub const TRACESTATE: &str = "tracestate";
/// `true` on a message that was handled before and is handled again by `DuplicatePolicy::Invoke`.
pub const DUPLICATE: &str = "barid-duplicate";
/// The id that a copied, deferred or forwarded message had before it got its own; after several copies, that of the first.
pub const ORIGINAL_ID: &str = "barid-original-id";
/// `true` on a request: its sender waits for the answer, and is told when the request is given up.
pub const REQUEST: &str = "barid-request";
/// `true` on a message whose result somebody polls for: the bus that handles it keeps what became of it.
pub const RESULT: &str = "barid-result";
/// On a timeout of a saga: the saga's name.
pub const SAGA: &str = "barid-saga";
/// On a timeout of a saga: the saga's id.
pub const SAGA_ID: &str = "barid-saga-id";
/// On an event of the event store: its number in its stream, from 1. The stream is [`KEY`].
pub const EVENT_VERSION: &str = "barid-event-version";
/// On an event of the event store: its number among the events of all streams, from 1.
pub const EVENT_POSITION: &str = "barid-event-position";
/// On a dead letter: how many attempts were made.
pub const DEAD_ATTEMPTS: &str = "barid-dead-attempts";
/// On a dead letter: the chain of causes, outermost first, separated by `: `.
pub const DEAD_CAUSE: &str = "barid-dead-cause";
/// On a dead letter: when it was given up, RFC 3339 in UTC.
pub const DEAD_AT: &str = "barid-dead-at";
/// On a dead letter: the queue or topic that it was received from.
pub const DEAD_SOURCE: &str = "barid-dead-source";
/// On a dead letter: the bus that gave it up.
pub const DEAD_BUS: &str = "barid-dead-bus";

/// On a dead letter: the queue of that bus, to which the message can be returned.
pub const DEAD_QUEUE: &str = "barid-dead-queue";
/// On a dead letter: the handler that failed last; all handlers of the message, separated by `, `, when the failure was
/// none of one handler's (the commit, or a process that died).
pub const DEAD_HANDLER: &str = "barid-dead-handler";

/// Everything that a dead letter has and the message had not.
pub const DEAD: [&str; 7] =
    [DEAD_ATTEMPTS, DEAD_CAUSE, DEAD_AT, DEAD_SOURCE, DEAD_BUS, DEAD_QUEUE, DEAD_HANDLER];

/// The headers of a message, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Sets `name` unless it has a value already: what a user set explicitly always wins.
    pub fn set_default(&mut self, name: &str, value: impl FnOnce() -> String) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), value());
        }
    }

    /// Removes `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// All headers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_value_wins_over_a_default() {
        let mut headers = Headers::from_iter([(CORRELATION_ID, "mine")]);
        headers.set_default(CORRELATION_ID, || "default".to_owned());
        headers.set_default(SOURCE, || "orders".to_owned());
        assert_eq!(headers.get(CORRELATION_ID), Some("mine"));
        assert_eq!(headers.get(SOURCE), Some("orders"));
    }

    #[test]
    fn headers_are_a_plain_json_object() {
        let headers = Headers::from_iter([("a", "1"), ("b", "2")]);
        let text = serde_json::to_string(&headers).unwrap();
        assert_eq!(text, r#"{"a":"1","b":"2"}"#);
        assert_eq!(serde_json::from_str::<Headers>(&text).unwrap(), headers);
    }
}
