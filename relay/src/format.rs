//! How messages look to whoever receives them.
//!
//! By default a row travels as the framework's transports send it. A route may ask for the form of somebody else: [`Debezium`]'s
//! outbox event router, or [`CloudEvents`]. The relay formats a row once, when it was read and routed; from then on publishers see
//! exactly what is to be sent ([`Wire`]). Everything here is a plain function of one row: no I/O, no clock.
//!
//! What cannot be put into a form says why, and is parked.

use barid::transport::{OutgoingRow, Wire};

pub mod cloudevents;
pub mod debezium;
mod field;
mod json;
mod topic;
pub mod trace;

pub use self::{
    cloudevents::{CloudEvents, Mode},
    debezium::Debezium,
};

/// A form that is not the transports' own.
#[derive(Debug)]
pub enum Format {
    /// What Debezium's outbox event router makes of a row, for Kafka.
    Debezium(Debezium),
    /// CloudEvents 1.0, for Kafka or AMQP.
    CloudEvents(CloudEvents),
}

/// A setting that cannot be used: its key, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key of the setting.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Problem {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into() }
    }
}

impl Format {
    /// Gives the row this form.
    ///
    /// # Errors
    /// Why it cannot have it, and what to do. The row may have been changed in part: it is for parking only.
    pub fn apply(&self, row: &mut OutgoingRow) -> Result<(), String> {
        match self {
            Self::Debezium(debezium) => debezium.apply(row),
            Self::CloudEvents(cloudevents) => cloudevents.apply(row),
        }
    }

    /// Whether it decides itself to which topic a row goes, so that a route does not say what has to exist.
    #[must_use]
    pub fn reroutes(&self) -> bool {
        matches!(self, Self::Debezium(_))
    }
}

/// The trace context of a row as headers of its message.
fn push_trace(row: &OutgoingRow, wire: &mut Wire) {
    for (name, value) in trace::of(row) {
        wire.push(name, value);
    }
}

#[cfg(test)]
mod tests {
    use barid::Headers;
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;

    /// What the tests of the forms begin with.
    pub(super) fn row(payload: Option<&str>, headers: &[(&str, &str)]) -> OutgoingRow {
        OutgoingRow {
            seq: 7,
            id: Uuid::from_u128(0x4d47_e190_0402_4048_bc2c_89dd_5434_3cdc),
            destination: barid::Destination::topic("order").unwrap(),
            aggregatetype: "order".to_owned(),
            aggregateid: Some("1".to_owned()),
            name: "OrderCreated".to_owned(),
            payload: payload.map(|text| Bytes::copy_from_slice(text.as_bytes())),
            headers: Headers::from_iter(headers.iter().copied()),
            tracingspancontext: None,
            wire: None,
        }
    }
}
