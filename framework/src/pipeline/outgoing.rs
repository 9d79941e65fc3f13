//! What travels through the outgoing steps, and what the steps do to it as plain functions.
//!
//! The functions are shared with [`Outbox::enqueue`](crate::Outbox::enqueue), which has no handler, no bus and no pipeline.

use crate::{
    clock,
    codec::Codec,
    destination::Destination,
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    message::Outgoing,
    routing::{Routes, Target},
    subscriptions::Subscriptions,
    transport::OutgoingRow,
};
use bytes::Bytes;
use std::sync::Arc;

/// One message on its way through the outgoing pipeline.
pub struct OutgoingContext {
    pub(crate) core: Arc<crate::bus::BusCore>,
    pub(crate) cause: Option<crate::Context>,
    pub(crate) message: Outgoing,
    pub(crate) body: Option<Bytes>,
    pub(crate) row: Option<OutgoingRow>,
    /// Where else the row goes: an event with several topics or subscribed queues.
    pub(crate) copies: Vec<Destination>,
}

impl OutgoingContext {
    pub(crate) fn new(
        core: Arc<crate::bus::BusCore>,
        cause: Option<crate::Context>,
        message: Outgoing,
    ) -> Self {
        Self { core, cause, message, body: None, row: None, copies: Vec::new() }
    }

    /// The rows, one for each place. None when a step ended the pipeline before `route`, and for an event that nobody
    /// subscribed to.
    pub(crate) fn into_rows(self) -> Vec<OutgoingRow> {
        self.row.map(|row| copied(row, self.copies)).unwrap_or_default()
    }

    /// The headers, to read and to change. They are on the row when the step `route` ran.
    pub fn headers(&mut self) -> &mut Headers {
        match &mut self.row {
            Some(row) => &mut row.headers,
            None => &mut self.message.headers,
        }
    }

    /// The wire name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.message.name
    }

    /// The bytes of the body, to read and to change; after the step `serialize`.
    pub fn body(&mut self) -> &mut Option<Bytes> {
        match &mut self.row {
            Some(row) => &mut row.payload,
            None => &mut self.body,
        }
    }

    /// The message whose handler sent this one.
    #[must_use]
    pub fn cause(&self) -> Option<&Incoming> {
        self.cause.as_ref().map(crate::Context::incoming)
    }
}

/// Sender, time, content type and bases.
pub(crate) fn default_headers(message: &mut Outgoing, source: &str, codec: &dyn Codec) {
    if !message.bases.is_empty() {
        let bases: Vec<_> = message.bases.iter().map(|base| base.name.as_str()).collect();
        message.headers.set_default(headers::BASES, || bases.join(","));
    }
    message.headers.set_default(headers::SOURCE, || source.to_owned());
    message.headers.set_default(headers::SENT_AT, clock::now_text);
    message.headers.set_default(headers::CONTENT_TYPE, || codec.content_type().to_owned());
}

/// The conversation it belongs to and the message that caused it.
pub(crate) fn correlate(message: &mut Outgoing, cause: Option<&Incoming>) {
    let id = message.id;
    message.headers.set_default(headers::CORRELATION_ID, || match cause {
        Some(cause) => {
            cause.headers.get(headers::CORRELATION_ID).map_or_else(|| cause.id.to_string(), ToOwned::to_owned)
        }
        None => id.to_string(),
    });
    if let Some(cause) = cause {
        message.headers.set_default(headers::CAUSATION_ID, || cause.id.to_string());
    }
}

/// The body's bytes.
pub(crate) fn encode(message: &Outgoing, codec: &dyn Codec) -> Result<Option<Bytes>> {
    let body = message.encode(codec).map_err(|error| {
        Error::permanent(format!("message {:?} cannot be encoded: {error}", message.name))
    })?;
    let len = body.as_ref().map_or(0, Bytes::len);
    if len > limits::BODY_BYTES_MAX {
        return Err(Error::permanent(format!(
            "message {:?} has {len} bytes, {} are allowed: send a reference to the data instead of the data",
            message.name,
            limits::BODY_BYTES_MAX
        )));
    }
    Ok(body)
}

/// Every place that a message goes to, each once; none when it is an event that nobody subscribed to.
pub(crate) async fn route(
    message: &mut Outgoing,
    routes: &Routes,
    subscriptions: &Subscriptions,
) -> Result<Vec<Destination>> {
    let topics = match routes.target(message)? {
        Target::One(to) => {
            if let Destination::Topic(topic) = &to {
                message.headers.set(headers::TOPIC, topic);
            }
            return Ok(vec![to]);
        }
        Target::Subscribers(topics) => topics,
    };
    message.headers.set(headers::TOPIC, &topics[0]);
    match subscriptions.store() {
        None => Ok(topics.into_iter().map(Destination::Topic).collect()),
        Some(store) => Ok(store.queues(&topics).await?.into_iter().map(Destination::Queue).collect()),
    }
}

/// The row, with its destination decided.
pub(crate) fn into_row(
    mut message: Outgoing,
    body: Option<Bytes>,
    destination: Destination,
) -> Result<OutgoingRow> {
    Ok(OutgoingRow {
        seq: 0,
        id: message.id,
        destination,
        aggregatetype: message.aggregate,
        aggregateid: message.key,
        tracingspancontext: message.headers.remove(headers::TRACEPARENT),
        wire: None,
        name: crate::destination::checked_name(message.name)?,
        payload: body,
        headers: message.headers,
    })
}

/// The row and one copy for each of the other places: the same message, with the same id.
fn copied(row: OutgoingRow, others: Vec<Destination>) -> Vec<OutgoingRow> {
    let mut rows = vec![row];
    for destination in others {
        rows.push(OutgoingRow { destination, ..rows[0].clone() });
    }
    rows
}

/// What is needed to make rows of messages that no bus sends.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) source: String,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) routes: Routes,
    pub(crate) subscriptions: Subscriptions,
}

impl Desk {
    pub(crate) fn new(source: String) -> Self {
        let (routes, subscriptions) = (Routes::default(), Subscriptions::native());
        Self { source, codec: Arc::new(crate::codec::Json), routes, subscriptions }
    }

    /// Gives the message its owner unless it says itself where it goes.
    ///
    /// # Errors
    /// When nobody owns it.
    pub(crate) fn address(&self, message: &mut Outgoing) -> Result<()> {
        if message.to.is_none() {
            message.to = Some(self.routes.owner(&message.name)?.clone());
        }
        Ok(())
    }

    /// All steps at once.
    pub(crate) async fn rows(&self, mut message: Outgoing) -> Result<Vec<OutgoingRow>> {
        let codec = self.codec.as_ref();
        default_headers(&mut message, &self.source, codec);
        correlate(&mut message, None);
        let body = encode(&message, codec)?;
        let mut places = route(&mut message, &self.routes, &self.subscriptions).await?.into_iter();
        let Some(first) = places.next() else { return Ok(Vec::new()) };
        Ok(copied(into_row(message, body, first)?, places.collect()))
    }
}
