//! Parked messages as programs read them: the same on the command line and over HTTP.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::{Changed, Group, ParkedMessage};

/// A page of a list; `next` is where the following one begins.
#[must_use]
pub fn messages(messages: &[ParkedMessage], next: Option<&str>) -> Value {
    json!({"messages": messages.iter().map(message).collect::<Vec<_>>(), "next": next})
}

/// Messages that were asked for by their id.
#[must_use]
pub fn shown(messages: &[ParkedMessage]) -> Value {
    json!({"messages": messages.iter().map(message).collect::<Vec<_>>()})
}

/// Groups by what went wrong.
#[must_use]
pub fn groups(groups: &[Group]) -> Value {
    let groups = groups.iter().map(|group| {
        json!({
            "fingerprint": group.fingerprint, "state": group.state, "messages": group.messages, "keys": group.keys,
            "oldest": time(group.oldest_ms), "newest": time(group.newest_ms), "destination": group.destination,
            "error": group.error,
        })
    });
    json!({"groups": groups.collect::<Vec<_>>()})
}

/// What was changed, or would be.
#[must_use]
pub fn changed(changed: &Changed) -> Value {
    let Changed { action, source, selection, count, dry_run } = changed;
    json!({
        "action": action.as_str(), "source": source, "selection": selection, "messages": count.messages,
        "keys": count.keys, "dry_run": dry_run,
    })
}

fn message(message: &ParkedMessage) -> Value {
    let headers = serde_json::from_str(&message.headers).unwrap_or_else(|_| json!(message.headers));
    let mut value = json!({
        "seq": message.row.seq, "id": message.row.id.to_string(), "state": message.state,
        "destination": message.destination, "aggregatetype": message.aggregatetype, "aggregateid": message.aggregateid,
        "type": message.name, "headers": headers, "payload_bytes": message.payload_bytes,
        "tracingspancontext": message.tracingspancontext, "created_at": time(message.created_ms),
        "parked_at": time(message.parked_ms), "attempts": message.attempts, "error": message.last_error,
        "fingerprint": message.fingerprint,
    });
    if let Some(payload) = &message.payload {
        let (name, text) = text_or_hex(payload);
        value[name] = json!(text);
    }
    value
}

/// A body as text, or as hexadecimal digits where it is none.
#[must_use]
pub fn text_or_hex(payload: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(payload) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_hex", payload.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

/// A time in UTC, by RFC 3339.
#[must_use]
pub fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .map_or_else(|| ms.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_no_text_is_shown_as_hex() {
        assert_eq!(text_or_hex(b"{}"), ("body", "{}".to_owned()));
        assert_eq!(text_or_hex(&[0xff, 0x01]), ("body_hex", "ff01".to_owned()));
    }
}
