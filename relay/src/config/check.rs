//! What types cannot say: what belongs together, and what must not be missing.

use std::time::Duration;

use crate::{
    lease::{INSTANCE_CHARS_MAX, LEASE_BOUNDS},
    sink::Pattern,
};

use super::{Config, SinkConfig, SinkKind, SourceConfig, read::Leaf};

/// Everything that does not fit together.
pub(super) fn problems(config: &Config, leaves: &[Leaf], file: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |section: &[&str], what: String| {
        let of = |leaf: &&Leaf| {
            leaf.path.len() >= section.len() && leaf.path.iter().zip(section).all(|(a, b)| a == b)
        };
        let origin = leaves.iter().find(of).map_or(file, |leaf| &leaf.origin);
        problems.push(format!("{origin}: {what}"));
    };
    if config.source.is_empty() {
        say(&[], "there is no [source.NAME]: add one with the url of a database".to_owned());
    }
    if config.sink.is_empty() {
        say(&[], "there is no [sink.NAME]: add one, for instance kind = \"rabbitmq\"".to_owned());
    }
    if config.route.is_empty() {
        say(
            &[],
            "there is no [[route]], so every row would be parked: add one, for instance destination = \"*\""
                .to_owned(),
        );
    }
    for (name, source) in &config.source {
        let section = ["source", name.as_str()];
        one_of(&section, [("url", source.url.is_some()), ("url_file", source.url_file.is_some())], &mut say);
        if source.batch_rows == 0 {
            say(&section, format!("batch_rows in [source.{name}] must be at least 1"));
        }
        let shared = |other: &&SourceConfig| other.doorbell.is_some() && other.doorbell == source.doorbell;
        if config.source.values().filter(shared).count() > 1 {
            say(&section, format!("doorbell in [source.{name}] is another source's too: give each its own"));
        }
    }
    for (name, sink) in &config.sink {
        check_sink(name, sink, &mut say);
    }
    for (at, route) in config.route.iter().enumerate() {
        let at = at.to_string();
        let section = ["route", at.as_str()];
        if let Err(error) = route.destination.parse::<Pattern>() {
            say(&section, format!("destination in [[route]]: {error}"));
        }
        if !config.sink.contains_key(&route.sink) {
            let sinks = config.sink.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            say(
                &section,
                format!("[[route]] leads to sink \"{}\", which does not exist (sinks: {sinks})", route.sink),
            );
        }
    }
    let relay = &config.relay;
    if relay.buffer_rows_max == 0 || relay.buffer_bytes_max == 0 || relay.delete_rows_max == 0 {
        say(&["relay"], "bounds in [relay] must be at least 1".to_owned());
    }
    let (shortest, longest) = LEASE_BOUNDS;
    if !(shortest..=longest).contains(&Duration::from_millis(relay.lease_ms)) {
        let (shortest, longest) = (shortest.as_millis(), longest.as_millis());
        say(&["relay", "lease_ms"], format!("lease_ms in [relay] must be between {shortest} and {longest}"));
    }
    if relay.instance.is_empty() || relay.instance.chars().count() > INSTANCE_CHARS_MAX {
        say(
            &["relay", "instance"],
            format!("instance in [relay] must have 1 to {INSTANCE_CHARS_MAX} characters"),
        );
    }
    problems
}

fn check_sink(name: &str, sink: &SinkConfig, say: &mut impl FnMut(&[&str], String)) {
    let section = ["sink", name];
    let address = [("url", sink.url.is_some()), ("url_file", sink.url_file.is_some())];
    let brokers = ("brokers", sink.brokers.is_some());
    let channels = ("channels", sink.channels.is_some());
    let properties = ("properties", !sink.properties.is_empty());
    let (kind, foreign) = match sink.kind {
        SinkKind::Rabbitmq => ("rabbitmq", vec![brokers, properties]),
        SinkKind::Sql => ("sql", vec![brokers, channels, properties]),
        SinkKind::Kafka => ("kafka", vec![address[0], address[1], channels]),
    };
    for (key, _) in foreign.into_iter().filter(|(_, set)| *set) {
        say(&section, format!("\"{key}\" in [sink.{name}] means nothing to kind = \"{kind}\": remove it"));
    }
    match sink.kind {
        SinkKind::Kafka if sink.brokers.is_none() => {
            say(&section, format!("[sink.{name}] needs brokers = \"host:port\""));
        }
        SinkKind::Kafka => {}
        SinkKind::Rabbitmq | SinkKind::Sql => one_of(&section, address, say),
    }
    let window = sink.window();
    if window.rows_max == 0 || window.bytes_max == 0 || sink.channels == Some(0) {
        say(&section, format!("bounds in [sink.{name}] must be at least 1"));
    }
}

fn one_of(section: &[&str; 2], keys: [(&str, bool); 2], say: &mut impl FnMut(&[&str], String)) {
    let [(a, has_a), (b, has_b)] = keys;
    let name = section.join(".");
    if has_a == has_b {
        let problem = if has_a { "has both, and must have one" } else { "needs one" };
        say(section, format!("[{name}] {problem} of \"{a}\" and \"{b}\""));
    }
}

/// Where a value is that its type refuses: the words for `kind`, `order` and `on_poison`, the address of a doorbell.
pub(super) fn locate(leaves: &[Leaf], message: &str) -> String {
    let named =
        |value: &str| message.split('`').nth(1) == Some(value) || message.starts_with(&format!("{value:?}"));
    let word = |leaf: &&Leaf| leaf.value.as_str().is_some_and(named);
    match leaves.iter().find(word) {
        Some(leaf) => format!("{}: {}: {message}", leaf.origin, leaf.path.join(".")),
        None => message.to_owned(),
    }
}
