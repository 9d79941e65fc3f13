//! Messages that could not be handled: the same bytes under a new place, with the reason in their headers.

use crate::{
    clock, destination::Destination, error::Error, headers, incoming::Incoming, transport::OutgoingRow,
};

/// The dead letter of a message. It keeps its id, its body and all its headers.
pub(crate) fn dead_letter(
    message: &Incoming,
    bus: &str,
    to: &Destination,
    error: &Error,
    attempts: u32,
) -> OutgoingRow {
    let mut all = message.headers.clone();
    let tracingspancontext = all.remove(headers::TRACEPARENT);
    let aggregatetype = all.remove(headers::AGGREGATE).unwrap_or_else(|| bus.to_owned());
    let aggregateid = all.remove(headers::KEY);
    all.set(headers::DEAD_CAUSE, error.to_string());
    all.set(headers::DEAD_ATTEMPTS, attempts.to_string());
    all.set(headers::DEAD_SOURCE, message.source.as_str());
    all.set(headers::DEAD_BUS, bus);
    all.set(headers::DEAD_AT, clock::now_text());
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
    }
}
