//! What travels through the outgoing steps, and what the steps do to it as plain functions.
//!
//! The functions are shared with [`Outbox::enqueue`](crate::Outbox::enqueue), which has no handler, no bus and no pipeline.

use crate::{
    clock,
    codec::Codec,
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    message::Outgoing,
    routing::Routes,
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
}

impl OutgoingContext {
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

/// Sender, time and content type.
pub(crate) fn default_headers(message: &mut Outgoing, source: &str, codec: &dyn Codec) {
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

/// The row, with its destination decided.
pub(crate) fn into_row(mut message: Outgoing, body: Option<Bytes>, routes: &Routes) -> Result<OutgoingRow> {
    let destination = routes.of(&message)?;
    Ok(OutgoingRow {
        seq: 0,
        id: message.id,
        destination,
        aggregatetype: message.aggregate,
        aggregateid: message.key,
        tracingspancontext: message.headers.remove(headers::TRACEPARENT),
        name: crate::destination::checked_name(message.name)?,
        payload: body,
        headers: message.headers,
    })
}

/// All of it at once, for a message that no handler sends.
pub(crate) fn row(
    mut message: Outgoing,
    source: &str,
    codec: &dyn Codec,
    routes: &Routes,
) -> Result<OutgoingRow> {
    default_headers(&mut message, source, codec);
    correlate(&mut message, None);
    let body = encode(&message, codec)?;
    into_row(message, body, routes)
}
