//! How parked messages are shown: as a table for people, as JSON for programs.

use super::super::terminal::{Output, print_json, print_table, visible};
use crate::parked::{
    Changed, Group, ParkedMessage,
    json::{self, text_or_hex, time},
    words,
};

pub(super) fn list(messages: &[ParkedMessage], more: bool, output: Output) {
    let next = messages.last().filter(|_| more).map(|last| words::end(last.row));
    if output == Output::Json {
        return print_json(&json::messages(messages, next.as_deref()));
    }
    let rows = messages.iter().map(|message| {
        vec![
            message.row.seq.to_string(),
            message.row.id.to_string(),
            message.state.clone(),
            message.destination.clone(),
            message.key().unwrap_or_else(|| "-".to_owned()),
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
        return print_json(&json::groups(groups));
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
        return print_json(&json::shown(messages));
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
            ("key", message.key().unwrap_or_else(|| "none: unordered".to_owned())),
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

pub(super) fn changed(changed: &Changed, output: Output) {
    let Changed { action, source, selection, count, dry_run } = changed;
    if output == Output::Json {
        return print_json(&json::changed(changed));
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
