//! What types cannot say: what belongs together, and what must not be missing.

use std::time::Duration;

use barid::distributed::ResourceId;

use crate::{
    lease::{INSTANCE_CHARS_MAX, LEASE_BOUNDS},
    sink::Pattern,
};

use super::{AfterName, Config, SinkConfig, SinkKind, SourceConfig, read::Leaf};

/// A hundred years: databases refuse times before their calendars begin.
const ARCHIVE_FOR_S_MAX: u64 = 100 * 366 * 86_400;

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
        match (source.after, source.archive_for_s) {
            (AfterName::Delete, Some(_)) => say(
                &["source", name, "archive_for_s"],
                format!(
                    "archive_for_s in [source.{name}] means nothing without after = \"archive\": remove it, or add that"
                ),
            ),
            (_, Some(seconds)) if !(1..=ARCHIVE_FOR_S_MAX).contains(&seconds) => say(
                &["source", name, "archive_for_s"],
                format!("archive_for_s in [source.{name}] must be between 1 and {ARCHIVE_FOR_S_MAX}"),
            ),
            _ => {}
        }
        let shared = |other: &&SourceConfig| other.doorbell.is_some() && other.doorbell == source.doorbell;
        if config.source.values().filter(shared).count() > 1 {
            say(&section, format!("doorbell in [source.{name}] is another source's too: give each its own"));
        }
    }
    super::foreign::check(config, &mut say);
    for (name, sink) in &config.sink {
        check_sink(name, sink, &mut say);
        let lease_ms = config.relay.lease_ms;
        if sink.confirm_timeout_ms.is_some_and(|timeout| timeout >= lease_ms) {
            let what = format!(
                "confirm_timeout_ms in [sink.{name}] must be less than lease_ms = {lease_ms}: rows would still be on their way \
                 when another relay takes over"
            );
            say(&["sink", name, "confirm_timeout_ms"], what);
        }
    }
    for (name, resource) in &config.resource {
        let section = ["resource", name.as_str()];
        let address = [("url", resource.url.is_some()), ("url_file", resource.url_file.is_some())];
        one_of(&section, address, &mut say);
        if let Err(error) = ResourceId::new(name) {
            say(&section, format!("[resource.{name}]: {error}"));
        }
    }
    for (at, route) in config.route.iter().enumerate() {
        let at = at.to_string();
        if let Err(error) = route.destination.parse::<Pattern>() {
            say(&["route", &at, "destination"], format!("destination in [[route]]: {error}"));
        }
        if !config.sink.contains_key(&route.sink) {
            let sinks = config.sink.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            say(
                &["route", &at, "sink"],
                format!("[[route]] leads to sink \"{}\", which does not exist (sinks: {sinks})", route.sink),
            );
        }
    }
    super::format::check(config, &mut say);
    let relay = &config.relay;
    let bounds = [relay.buffer_rows_max, relay.buffer_bytes_max, relay.key_rows_max, relay.delete_rows_max];
    if bounds.contains(&0) || relay.old_transaction_ms == 0 {
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
    if let Some(admin) = &config.admin {
        super::admin::check(admin, &mut say);
    }
    problems
}

fn check_sink(name: &str, sink: &SinkConfig, say: &mut impl FnMut(&[&str], String)) {
    let section = ["sink", name];
    let kind = format!("{:?}", sink.kind).to_lowercase();
    for (key, _) in sink.special().into_iter().filter(|(_, kinds)| !kinds.contains(&sink.kind)) {
        say(&section, format!("\"{key}\" in [sink.{name}] means nothing to kind = \"{kind}\": remove it"));
    }
    match sink.kind {
        SinkKind::Kafka => check_kafka(name, sink, say),
        SinkKind::Rabbitmq | SinkKind::Sql => {
            let address = [("url", sink.url.is_some()), ("url_file", sink.url_file.is_some())];
            one_of(&section, address, say);
        }
    }
    if sink.client_certificate_file.is_some() != sink.client_key_file.is_some() {
        let both = "\"client_certificate_file\" and \"client_key_file\"";
        say(&section, format!("[sink.{name}] has one of {both}, and must have both or none"));
    }
    let window = sink.window();
    let bounds = [sink.window_rows_min, sink.body_bytes_max, sink.channels.map(usize::from)];
    let zero = bounds.contains(&Some(0)) || sink.confirm_timeout_ms == Some(0);
    if window.rows_max == 0 || window.bytes_max == 0 || zero {
        say(&section, format!("bounds in [sink.{name}] must be at least 1"));
    }
}

fn check_kafka(name: &str, sink: &SinkConfig, say: &mut impl FnMut(&[&str], String)) {
    let section = ["sink", name];
    if sink.brokers.is_none() {
        say(&section, format!("[sink.{name}] needs brokers = \"host:port\""));
    }
    let (encrypts, logs_in) = sink.encrypts_and_logs_in();
    let login = [("username", sink.username.is_some()), ("sasl_mechanism", sink.sasl_mechanism.is_some())];
    let password = [("password", sink.password.is_some()), ("password_file", sink.password_file.is_some())];
    let files = [
        ("ca_file", sink.ca_file.is_some()),
        ("client_certificate_file", sink.client_certificate_file.is_some()),
    ];
    let useless = |needed: bool, keys: &[(&'static str, bool)]| {
        keys.iter().filter(|(_, set)| *set && !needed).map(|(key, _)| *key).collect::<Vec<_>>()
    };
    for key in useless(logs_in, &login).into_iter().chain(useless(logs_in, &password)) {
        let what =
            format!("\"{key}\" in [sink.{name}] needs security = \"sasl_ssl\" (or \"sasl_plaintext\")");
        say(&section, what);
    }
    for key in useless(encrypts, &files) {
        say(&section, format!("\"{key}\" in [sink.{name}] needs security = \"ssl\" (or \"sasl_ssl\")"));
    }
    if logs_in {
        if sink.username.is_none() {
            say(&section, format!("[sink.{name}] needs \"username\""));
        }
        one_of(&section, password, say);
    }
    if !cfg!(feature = "kafka-ssl") {
        let scram = sink.sasl_mechanism.as_deref().is_none_or(|mechanism| mechanism != "PLAIN");
        if encrypts || (logs_in && scram) {
            let needs = "TLS and SCRAM to Kafka need the cargo feature \"kafka-ssl\"";
            let remedy = "build it with --features kafka-ssl";
            say(&section, format!("[sink.{name}]: this program was built without: {needs}; {remedy}"));
        }
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
