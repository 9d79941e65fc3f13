//! How parked messages are shown: as a table for people, as JSON for programs.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::super::terminal::{Output, print_json, print_table, visible};
use crate::parked::{Action, Count, Group, ParkedMessage};

pub(super) fn list(messages: &[ParkedMessage], more: bool, output: Output) {
    let next = messages.last().filter(|_| more).map(|last| format!("{}:{}", last.row.seq, last.row.id));
    if output == Output::Json {
        let messages: Vec<Value> = messages.iter().map(json_of).collect();
        return print_json(&json!({"messages": messages, "next": next}));
    }
    let rows = messages.iter().map(|message| {
        vec![
            message.row.seq.to_string(),
            message.row.id.to_string(),
            message.state.clone(),
            message.destination.clone(),
            key(message).unwrap_or_else(|| "-".to_owned()),
            message.name.clone(),
            time(message.parked_ms),
            message.fingerprint.clone().unwrap_or_else(|| "-".to_owned()),
            message.last_error.clone().unwrap_or_default(),
        ]
    });
    let header = ["SEQ", "ID", "STATE", "DESTINATION", "KEY", "TYPE", "PARKED", "FINGERPRINT", "ERROR"];
    print_table(&header, rows);
    if let Some(next) = next {
        println!("\nMore: --after {next}");
    }
}

pub(super) fn groups(groups: &[Group], output: Output) {
    if output == Output::Json {
        let groups = groups.iter().map(|group| {
            json!({
                "fingerprint": group.fingerprint, "state": group.state, "messages": group.messages, "keys": group.keys,
                "oldest": time(group.oldest_ms), "newest": time(group.newest_ms), "destination": group.destination,
                "error": group.error,
            })
        });
        return print_json(&json!({"groups": groups.collect::<Vec<_>>()}));
    }
    let rows = groups.iter().map(|group| {
        vec![
            group.fingerprint.clone().unwrap_or_else(|| "-".to_owned()),
            group.state.clone(),
            group.messages.to_string(),
            group.keys.to_string(),
            time(group.oldest_ms),
            time(group.newest_ms),
            group.destination.clone(),
            group.error.clone().unwrap_or_default(),
        ]
    });
    let header = ["FINGERPRINT", "STATE", "MESSAGES", "KEYS", "OLDEST", "NEWEST", "FOR INSTANCE TO", "ERROR"];
    print_table(&header, rows);
}

pub(super) fn show(messages: &[ParkedMessage], output: Output) {
    if output == Output::Json {
        let messages: Vec<Value> = messages.iter().map(json_of).collect();
        return print_json(&json!({"messages": messages}));
    }
    for (at, message) in messages.iter().enumerate() {
        if at > 0 {
            println!();
        }
        let bytes =
            message.payload_bytes.map_or("none: a tombstone".to_owned(), |bytes| format!("{bytes} bytes"));
        let mut lines = vec![
            ("id", message.row.id.to_string()),
            ("seq", message.row.seq.to_string()),
            ("state", message.state.clone()),
            ("destination", message.destination.clone()),
            ("key", key(message).unwrap_or_else(|| "none: unordered".to_owned())),
            ("type", message.name.clone()),
            ("created", time(message.created_ms)),
            ("parked", time(message.parked_ms)),
            ("attempts", message.attempts.to_string()),
            ("error", message.last_error.clone().unwrap_or_default()),
            ("fingerprint", message.fingerprint.clone().unwrap_or_else(|| "none".to_owned())),
            ("headers", message.headers.clone()),
            ("traceparent", message.tracingspancontext.clone().unwrap_or_else(|| "none".to_owned())),
            ("body", bytes),
        ];
        lines.extend(message.payload.as_deref().map(|payload| ("", text_or_hex(payload).1)));
        for (name, value) in lines {
            println!("{name:<12} {}", visible(&value));
        }
    }
}

/// What was changed, or would be.
pub(super) struct Changed {
    pub(super) action: Action,
    pub(super) source: String,
    pub(super) selection: String,
    pub(super) count: Count,
    pub(super) dry_run: bool,
}

pub(super) fn changed(changed: &Changed, output: Output) {
    let Changed { action, source, selection, count, dry_run } = changed;
    if output == Output::Json {
        return print_json(&json!({
            "action": action.as_str(), "source": source, "selection": selection, "messages": count.messages,
            "keys": count.keys, "dry_run": dry_run,
        }));
    }
    let (messages, keys) = (count.messages, count.keys);
    let selection = visible(selection);
    if *dry_run {
        println!("would {action} {messages} messages of {keys} keys (source {source}; {selection})");
        return;
    }
    println!("{action}: {messages} messages of {keys} keys (source {source}; {selection})");
    println!("A relay that runs acts on it within about a second, another one when it starts.");
}

fn json_of(message: &ParkedMessage) -> Value {
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
fn text_or_hex(payload: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(payload) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_hex", payload.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn key(message: &ParkedMessage) -> Option<String> {
    message.aggregateid.as_ref().map(|id| format!("{}/{id}", message.aggregatetype))
}

fn time(ms: i64) -> String {
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
