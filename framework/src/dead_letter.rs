//! Messages that could not be handled: the same bytes under a new place, with the reason in their headers.
//!
//! A dead letter keeps its id, its body and all its headers. [`DeadLetter::read`] shows what was added;
//! [`Sender::return_to_source`](crate::Sender::return_to_source) sends it back to the bus that gave it up, with the same id and
//! fresh attempts.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    clock,
    destination::Destination,
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    retry::shortened,
    transport::OutgoingRow,
};

/// What a dead letter says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The chain of causes, outermost first, separated by `: `; at most 8,000 bytes.
    pub cause: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it was given up, by the clock of the bus.
    pub at: DateTime<Utc>,
    /// The queue or topic that it was received from.
    pub source: String,
    /// The bus that gave it up.
    pub bus: String,
    /// The queue of that bus.
    pub queue: String,
    /// The handler that failed last, as a Rust path; several when it could not be told which. None when there was none.
    pub handler: Option<String>,
}

impl DeadLetter {
    /// Reads the headers of a dead letter.
    ///
    /// # Errors
    /// When one of them is missing or is not what it should be; the text names it. Such a message was not made a dead letter
    /// by a bus.
    pub fn read(all: &Headers) -> Result<Self> {
        let get = |name: &str| {
            let missing = || Error::permanent(format!("this is no dead letter: it has no header {name:?}"));
            all.get(name).ok_or_else(missing)
        };
        let unreadable = |name: &str, value: &str| {
            Error::permanent(format!("this is no dead letter: header {name:?} is {value:?}"))
        };
        let (attempts, at) = (get(headers::DEAD_ATTEMPTS)?, get(headers::DEAD_AT)?);
        Ok(Self {
            cause: get(headers::DEAD_CAUSE)?.to_owned(),
            attempts: attempts.parse().map_err(|_| unreadable(headers::DEAD_ATTEMPTS, attempts))?,
            at: DateTime::parse_from_rfc3339(at).map_err(|_| unreadable(headers::DEAD_AT, at))?.to_utc(),
            source: get(headers::DEAD_SOURCE)?.to_owned(),
            bus: get(headers::DEAD_BUS)?.to_owned(),
            queue: get(headers::DEAD_QUEUE)?.to_owned(),
            handler: all.get(headers::DEAD_HANDLER).map(str::to_owned),
        })
    }
}

/// Why and where a message was given up.
pub(crate) struct Death<'a> {
    pub(crate) bus: &'a str,
    pub(crate) queue: &'a str,
    pub(crate) cause: &'a str,
    pub(crate) attempts: u32,
    pub(crate) handler: &'a str,
}

/// The dead letter of a message.
pub(crate) fn dead_letter(message: &Incoming, to: &Destination, death: &Death<'_>) -> OutgoingRow {
    let mut all = message.headers.clone();
    let tracingspancontext = all.remove(headers::TRACEPARENT);
    let aggregatetype = all.remove(headers::AGGREGATE).unwrap_or_else(|| death.bus.to_owned());
    let aggregateid = all.remove(headers::KEY);
    for name in headers::DEAD {
        // Of an earlier life.
        all.remove(name);
    }
    all.set(headers::DEAD_CAUSE, shortened(death.cause, limits::DEAD_CAUSE_BYTES_MAX));
    all.set(headers::DEAD_ATTEMPTS, death.attempts.to_string());
    all.set(headers::DEAD_SOURCE, message.source.as_str());
    all.set(headers::DEAD_BUS, death.bus);
    all.set(headers::DEAD_QUEUE, death.queue);
    all.set(headers::DEAD_AT, clock::now_text());
    if !death.handler.is_empty() {
        all.set(headers::DEAD_HANDLER, death.handler);
    }
    OutgoingRow {
        seq: 0,
        id: message.id,
        destination: to.clone(),
        aggregatetype,
        aggregateid,
        name: if message.name.is_empty() { "unknown".to_owned() } else { message.name.clone() },
        payload: Some(message.body.clone()),
        headers: all,
        tracingspancontext,
        wire: None,
    }
}

/// The message that a dead letter was, on its way back to the queue of the bus that gave it up.
pub(crate) fn returned(all: &Headers, body: Bytes) -> Result<OutgoingRow> {
    let letter = DeadLetter::read(all)?;
    let mut all = all.clone();
    for name in headers::DEAD {
        all.remove(name);
    }
    let id = all.get(headers::ID).and_then(|id| id.parse::<Uuid>().ok()).ok_or_else(|| {
        Error::permanent(format!("the dead letter has no UUID in its header {:?}", headers::ID))
    })?;
    Ok(OutgoingRow {
        seq: 0,
        id,
        destination: Destination::queue(letter.queue)?,
        aggregatetype: all.remove(headers::AGGREGATE).unwrap_or(letter.bus),
        aggregateid: all.remove(headers::KEY),
        name: all.remove(headers::TYPE).unwrap_or_else(|| "unknown".to_owned()),
        payload: Some(body),
        tracingspancontext: all.remove(headers::TRACEPARENT),
        wire: None,
        headers: all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Repeat;

    fn message() -> Incoming {
        Incoming {
            id: Uuid::from_u128(7),
            name: "orders.place".to_owned(),
            headers: Headers::from_iter([
                (headers::ID, Uuid::from_u128(7).to_string().as_str()),
                (headers::TYPE, "orders.place"),
                (headers::AGGREGATE, "orders"),
                (headers::KEY, "o-1"),
                (headers::TRACEPARENT, "00-a-b-01"),
                ("tenant", "blue"),
            ]),
            body: Bytes::from_static(b"{}"),
            source: "orders-topic".to_owned(),
            repeat: Repeat::Possible,
        }
    }

    fn letter(cause: &str) -> OutgoingRow {
        let to = Destination::queue("dead-letters").unwrap();
        let death =
            Death { bus: "orders", queue: "orders-queue", cause, attempts: 3, handler: "shop::place" };
        dead_letter(&message(), &to, &death)
    }

    #[test]
    fn a_letter_says_everything_and_comes_back_as_what_it_was() {
        let row = letter("writing: disk on fire");
        assert_eq!((row.id, row.destination.to_string()), (message().id, "queue:dead-letters".to_owned()));
        let wire = row.wire_headers();
        let read = DeadLetter::read(&wire).unwrap();
        assert_eq!((read.cause.as_str(), read.attempts), ("writing: disk on fire", 3));
        assert_eq!((read.source.as_str(), read.bus.as_str()), ("orders-topic", "orders"));
        assert_eq!((read.queue.as_str(), read.handler.as_deref()), ("orders-queue", Some("shop::place")));

        let back = returned(&wire, row.payload.unwrap()).unwrap();
        assert_eq!((back.id, back.destination.to_string()), (message().id, "queue:orders-queue".to_owned()));
        assert_eq!((back.wire_headers(), back.payload), (message().headers, Some(message().body)));
    }

    #[test]
    fn a_long_cause_is_cut_so_that_the_headers_fit_every_broker() {
        let wire = letter(&"x".repeat(1_000_000)).wire_headers();
        assert!(DeadLetter::read(&wire).unwrap().cause.len() < limits::DEAD_CAUSE_BYTES_MAX + 100);
    }

    #[test]
    fn what_is_no_dead_letter_is_refused_by_name() {
        let said = DeadLetter::read(&message().headers).unwrap_err().to_string();
        assert!(said.contains(headers::DEAD_ATTEMPTS), "{said}");
        let mut wire = letter("x").wire_headers();
        wire.set(headers::DEAD_AT, "yesterday");
        assert!(DeadLetter::read(&wire).unwrap_err().to_string().contains("yesterday"));
    }
}
