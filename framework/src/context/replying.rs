//! Answering: from a handler, for a duplicate, and for a message that is given up.
//!
//! What a handler answers is staged like everything it sends. When the message is completed the answer is kept with the
//! idempotency record and, if somebody polls for it, as result; both by the closing text of the unit of work. A duplicate
//! reads the kept answer in its own unit of work and sends it again, under the same id.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Context;
use crate::{
    bus::BusCore,
    destination::Destination,
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    message::Outgoing,
    pipeline::IncomingContext,
    request::{FAILED_NAME, Problem},
    store::{
        idempotency::write_reply,
        results::{FAILED, ResultRow, SUCCEEDED},
    },
    transport::OutgoingRow,
};

/// Where an answer goes that nobody but a result waits for: nowhere, it is taken out before anything is sent.
const NOWHERE: &str = "barid.nowhere";

impl Context {
    /// Answers the message being handled: to where its header `barid-reply-to` says, unless [`Outgoing::to`] was called, as a
    /// part of the same conversation. Only stages, like [`Context::publish`].
    ///
    /// With idempotency the answer is kept with the record, so that a duplicate of the message gets the same answer under
    /// the same id; without, a duplicate is handled and answered again. When somebody polls for the result of the message, the
    /// answer is its data.
    ///
    /// # Errors
    /// As [`Context::publish`], and when the message does not say where answers go. An answer of more than
    /// [`limits::REPLY_BYTES_MAX`] that would have to be kept fails the message.
    pub fn reply(&self, answer: impl Into<Outgoing>) -> Result<()> {
        let (message, mut answer) = (self.incoming(), answer.into());
        answer.headers.set_default(headers::IN_REPLY_TO, || id_text(message));
        if answer.to.is_some() {
            return self.stage(answer);
        }
        match reply_to(message)? {
            Some(to) => self.stage(answer.to(to)),
            // It is kept with the commit and never sent: no outbox is needed.
            None if wants_result(message) => self.push(answer.to(Destination::queue(NOWHERE)?)),
            None => Err(Error::permanent(format!(
                "message {} ({}) cannot be answered: it has no header {:?}. Whoever sends it must set it, as every bus does with \
                 what it sends, or the reply must say .to(..) itself",
                message.id,
                message.name,
                headers::REPLY_TO
            ))),
        }
    }

    /// Whether anybody wants an answer.
    pub(crate) fn is_asked(&self) -> bool {
        wants_reply(self.incoming()) || wants_result(self.incoming())
    }
}

/// The id as whoever asked knows it: a request that was forwarded or deferred has another one.
fn id_text(message: &Incoming) -> String {
    let header = |name| message.headers.get(name).map(ToOwned::to_owned);
    let asked = header(headers::ORIGINAL_ID).or_else(|| header(headers::ID));
    asked.unwrap_or_else(|| message.id.to_string())
}

fn reply_to(message: &Incoming) -> Result<Option<Destination>> {
    let Some(to) = message.headers.get(headers::REPLY_TO) else { return Ok(None) };
    let to = to.parse().map_err(|error| {
        Error::permanent(format!(
            "header {:?} of message {} cannot be used: {error}",
            headers::REPLY_TO,
            message.id
        ))
    })?;
    Ok(Some(to))
}

fn wants_result(message: &Incoming) -> bool {
    message.headers.get(headers::RESULT) == Some("true")
}

fn wants_reply(message: &Incoming) -> bool {
    message.headers.get(headers::REPLY_TO).is_some()
}

/// Keeps the answers among `rows`, and takes out those that are only kept. Called once, right before the commit.
pub(crate) fn keep(cx: &IncomingContext, mut rows: Vec<OutgoingRow>) -> Result<Vec<OutgoingRow>> {
    let message = cx.message();
    let (reply, result) = (wants_reply(message), wants_result(message));
    // A duplicate whose handlers were skipped has said everything at the first time.
    if !(reply || result) || (cx.duplicate && !cx.context.is_duplicate()) {
        return Ok(rows);
    }
    let id = id_text(message);
    let answers = |row: &OutgoingRow| row.headers.get(headers::IN_REPLY_TO) == Some(&id);
    let core = cx.core();
    let recorded = core.idempotency.is_some() && cx.mark.is_none() && !cx.duplicate;
    let kept: Vec<&OutgoingRow> = rows.iter().filter(|row| answers(row)).collect();
    if (recorded || result)
        && kept.iter().map(|row| row.payload_len()).sum::<usize>() > limits::REPLY_BYTES_MAX
    {
        return Err(Error::permanent(format!(
            "the answer to message {id} has more than {} bytes (limits::REPLY_BYTES_MAX) and would have to be kept: answer \
             with a reference to the data instead of the data",
            limits::REPLY_BYTES_MAX
        )));
    }
    if reply && recorded && !kept.is_empty() {
        cx.context.write(write_reply(&cx.key(), pack(&kept)?));
    }
    if result {
        keep_result(cx, &core, kept.last().copied());
    }
    if !reply {
        rows.retain(|row| !answers(row));
    }
    Ok(rows)
}

fn keep_result(cx: &IncomingContext, core: &BusCore, answer: Option<&OutgoingRow>) {
    let Some(results) = core.results() else {
        tracing::warn!(
            bus = core.name, id = %cx.message().id,
            "somebody polls for the result of a message, and this bus keeps none: it has no SQL unit of work that commits \
             with the transaction"
        );
        return;
    };
    let row = ResultRow {
        name: answer.map(|row| row.name.clone()),
        content_type: answer.and_then(|row| row.headers.get(headers::CONTENT_TYPE)).map(str::to_owned),
        data: answer.and_then(|row| row.payload.clone()),
        ..ResultRow::new(cx.message().id, SUCCEEDED, &core.name)
    };
    cx.context.write(results.statement(&row));
}

/// Sends the kept answer of a duplicate again.
pub(crate) async fn again(cx: &mut IncomingContext) -> Result<()> {
    if cx.mark.is_some() || !wants_reply(cx.message()) {
        return Ok(());
    }
    let Some(records) = cx.core().records.clone() else { return Ok(()) };
    let key = cx.key();
    let mut slot = cx.context.0.unit.lock().await;
    let Some(unit) = slot.as_deref_mut() else { return Ok(()) };
    let Some(stored) = records.stored_reply(unit, &key).await? else { return Ok(()) };
    drop(slot);
    cx.resent = unpack(stored).map_err(|error| error.context("the answer that was kept with the record"))?;
    Ok(())
}

/// Tells whoever waits that the message was given up. Failures are reported: the message is a dead letter all the same.
pub(crate) async fn given_up(cx: &Context, error: &Error) {
    let (message, core) = (cx.incoming(), &cx.0.core);
    let problem = Problem::of(error, message.id);
    if wants_result(message)
        && let Some(results) = core.results()
    {
        let row =
            ResultRow { problem: Some(problem.to_json()), ..ResultRow::new(message.id, FAILED, &core.name) };
        if let Err(error) = results.write(&row).await {
            cx.transaction().report(&error.context("keeping that a message was given up"));
        }
    }
    if message.headers.get(headers::REQUEST) != Some("true") {
        return;
    }
    let told = match reply_to(message) {
        Ok(Some(to)) => core.send_all(&[failure(message, &core.name, to, &problem)]).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        cx.transaction().report(&error.context("answering that the request failed"));
    }
}

/// The answer that says that the request failed: the same id however often it is sent.
fn failure(message: &Incoming, bus: &str, to: Destination, problem: &Problem) -> OutgoingRow {
    let mut all = Headers::new();
    all.set(headers::IN_REPLY_TO, id_text(message));
    all.set(headers::SOURCE, bus);
    all.set(headers::SENT_AT, crate::clock::now_text());
    all.set(headers::CONTENT_TYPE, crate::request::PROBLEM_JSON);
    all.set(headers::CAUSATION_ID, message.id.to_string());
    if let Some(conversation) = message.headers.get(headers::CORRELATION_ID) {
        all.set(headers::CORRELATION_ID, conversation);
    }
    OutgoingRow {
        seq: 0,
        id: Uuid::new_v5(&message.id, FAILED_NAME.as_bytes()),
        destination: to,
        aggregatetype: bus.to_owned(),
        aggregateid: None,
        name: FAILED_NAME.to_owned(),
        payload: Some(problem.to_json().into()),
        headers: all,
        tracingspancontext: message.headers.get(headers::TRACEPARENT).map(str::to_owned),
        wire: None,
    }
}

/// What is kept of an answer besides its body.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: Uuid,
    destination: String,
    aggregate: String,
    key: Option<String>,
    name: String,
    headers: Headers,
    trace: Option<String>,
    /// Bytes of the body; `None` is a tombstone.
    body: Option<usize>,
}

/// Answers as bytes: for each the length of a JSON document, the document, the body.
fn pack(rows: &[&OutgoingRow]) -> Result<Bytes> {
    let mut out = BytesMut::new();
    for row in rows {
        let document = serde_json::to_vec(&Kept {
            id: row.id,
            destination: row.destination.to_string(),
            aggregate: row.aggregatetype.clone(),
            key: row.aggregateid.clone(),
            name: row.name.clone(),
            headers: row.headers.clone(),
            trace: row.tracingspancontext.clone(),
            body: row.payload.as_ref().map(Bytes::len),
        })?;
        out.put_u32(u32::try_from(document.len())?);
        out.put_slice(&document);
        out.put_slice(row.payload.as_deref().unwrap_or_default());
    }
    Ok(out.freeze())
}

fn unpack(mut bytes: Bytes) -> Result<Vec<OutgoingRow>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.try_get_u32()? as usize;
        let Kept { id, destination, aggregate, key, name, headers, trace, body } =
            serde_json::from_slice(&cut(&mut bytes, length)?)?;
        rows.push(OutgoingRow {
            seq: 0,
            id,
            destination: destination.parse()?,
            aggregatetype: aggregate,
            aggregateid: key,
            name,
            payload: body.map(|length| cut(&mut bytes, length)).transpose()?,
            headers,
            tracingspancontext: trace,
            wire: None,
        });
    }
    Ok(rows)
}

fn cut(bytes: &mut Bytes, length: usize) -> Result<Bytes> {
    if length > bytes.len() {
        return Err(Error::permanent(format!("{length} bytes were announced, {} are left", bytes.len())));
    }
    Ok(bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were_kept() {
        let row = |payload: Option<&'static str>| OutgoingRow {
            seq: 0,
            id: Uuid::now_v7(),
            destination: Destination::queue("shop.replies").unwrap(),
            aggregatetype: "prices".to_owned(),
            aggregateid: Some("k".to_owned()),
            name: "prices.price".to_owned(),
            payload: payload.map(Into::into),
            headers: Headers::from_iter([("a", "1")]),
            tracingspancontext: None,
            wire: None,
        };
        let rows = [row(Some("7")), row(None), row(Some(""))];
        let packed = pack(&rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(unpack(packed.clone()).unwrap(), rows);
        for cut in [1, 10, packed.len() - 1] {
            assert!(unpack(packed.slice(..cut)).is_err(), "{cut} bytes");
        }
        assert_eq!(unpack(Bytes::new()).unwrap(), []);
    }
}
