//! What has changed between two configurations, and what of it a relay that works can take over.
//!
//! The command line asks when it is told to read its configuration again. Keys are compared as they were written, so that the log can
//! name each, and no value is shown.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::Config;

/// A key that is written otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// `source.main.batch_rows`
    pub(crate) key: String,
    /// Why a relay that works cannot take it over; none when it can.
    pub(crate) needs_restart: Option<&'static str>,
}

/// The keys that are different, in their order.
pub(crate) fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let keys: BTreeSet<&String> = before.written.keys().chain(after.written.keys()).collect();
    let value =
        |config: &Config, key: &str| config.written.get(key).map(|value| value.expose_secret().to_owned());
    let changed = keys.into_iter().filter(|key| value(before, key) != value(after, key));
    changed.map(|key| Change { key: key.clone(), needs_restart: needs_restart(before, after, key) }).collect()
}

/// `before` with those keys of `after` that a relay that works takes over.
pub(crate) fn taken_over(before: &Config, after: &Config) -> Config {
    let mut config = before.clone();
    for (name, source) in &mut config.source {
        if let Some(wanted) = after.source.get(name) {
            source.batch_rows = wanted.batch_rows;
            source.poll_min_ms = wanted.poll_min_ms;
            source.idle_poll_ms = wanted.idle_poll_ms;
        }
    }
    config.relay.delete_rows_max = after.relay.delete_rows_max;
    config.relay.delete_wait_ms = after.relay.delete_wait_ms;
    config.relay.drain_ms = after.relay.drain_ms;
    config.relay.log.clone_from(&after.relay.log);
    for Change { key, .. } in
        changes(before, after).into_iter().filter(|change| change.needs_restart.is_none())
    {
        match after.written.get(&key) {
            Some(value) => config.written.insert(key, value.clone()),
            None => config.written.remove(&key),
        };
    }
    config
}

fn needs_restart(before: &Config, after: &Config, key: &str) -> Option<&'static str> {
    let (section, rest) = key.split_once('.').unwrap_or((key, ""));
    // The name of a source can have dots, the name of a key has none.
    let (name, key) = rest.rsplit_once('.').unwrap_or(("", rest));
    match (section, key) {
        ("source", _) if before.source.contains_key(name) != after.source.contains_key(name) => {
            Some("sources are opened at the start")
        }
        ("source", "batch_rows" | "poll_min_ms" | "idle_poll_ms") => None,
        ("source", _) => Some("a source is read as it was opened"),
        ("relay", "delete_rows_max" | "delete_wait_ms" | "drain_ms" | "log") => None,
        ("relay", "lease_ms" | "instance") => Some("other relays have been told of it"),
        ("relay", "old_transaction_ms") => Some("old transactions are counted from it"),
        ("relay", _) => Some("rows are held under it"),
        ("sink", _) => Some("connections were opened with it"),
        ("route", _) => Some("rows are in flight by it"),
        ("admin", _) => Some("the server has begun to listen"),
        _ => Some("it is read at the start"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::parse;

    const BEFORE: &str = r#"
[source.main]
url = "postgres://shop:s3cret@db/shop"
batch_rows = 10
[source."a.b"]
url = "sqlite:x.db"
[sink.rabbit]
kind = "rabbitmq"
url = "amqp://mq/"
[[route]]
destination = "*"
sink = "rabbit"
[relay]
drain_ms = 5
"#;

    fn config(text: &str) -> Config {
        parse("relay.toml", text, std::iter::empty()).unwrap()
    }

    #[test]
    fn what_changed_is_named_and_taken_over_where_nothing_rests_on_it() {
        let before = config(BEFORE);
        assert_eq!(changes(&before, &before), []);
        for (from, to, key, live) in [
            ("batch_rows = 10", "batch_rows = 20", "source.main.batch_rows", true),
            ("batch_rows = 10", "", "source.main.batch_rows", true),
            ("batch_rows = 10", "batch_rows = 10\nidle_poll_ms = 9", "source.main.idle_poll_ms", true),
            ("x.db\"", "x.db\"\npoll_min_ms = 2", "source.a.b.poll_min_ms", true),
            ("drain_ms = 5", "drain_ms = 6", "relay.drain_ms", true),
            ("drain_ms = 5", "drain_ms = 5\nlog = \"debug\"", "relay.log", true),
            ("drain_ms = 5", "drain_ms = 5\nlease_ms = 9000", "relay.lease_ms", false),
            ("drain_ms = 5", "drain_ms = 5\nkey_rows_max = 9", "relay.key_rows_max", false),
            ("s3cret", "other", "source.main.url", false),
            ("amqp://mq/", "amqp://other/", "sink.rabbit.url", false),
            ("\"*\"", "\"queue:*\"", "route.0.destination", false),
            ("[relay]", "[admin]\nsurvey_ms = 900\n[relay]", "admin.survey_ms", false),
            ("[relay]", "[resource.r]\nurl = \"mysql://x/y\"\n[relay]", "resource.r.url", false),
        ] {
            assert!(BEFORE.contains(from), "{from}");
            let after = config(&BEFORE.replace(from, to));
            let changed = changes(&before, &after);
            let change = changed.iter().find(|change| change.key == key);
            let change = change.unwrap_or_else(|| panic!("{key} is not among {changed:?}"));
            assert_eq!(change.needs_restart.is_none(), live, "{change:?}");
            let now = taken_over(&before, &after);
            // What was taken over is no change any more, and what was not is still one.
            assert_eq!(changes(&now, &after).iter().any(|change| change.key == key), !live, "{key}");
            let shown = now.to_string() == after.to_string();
            assert!(!live || shown, "{key}: {now}\n{after}");
        }
    }

    #[test]
    fn a_source_that_comes_or_goes_needs_a_restart() {
        let more = format!("{BEFORE}[source.new]\nurl = \"sqlite:y.db\"\nbatch_rows = 3\n");
        for (before, after) in [(BEFORE, more.as_str()), (more.as_str(), BEFORE)] {
            let (before, after) = (config(before), config(after));
            let changed = changes(&before, &after);
            assert!(
                changed.len() == 2 && changed.iter().all(|change| change.needs_restart.is_some()),
                "{changed:?}"
            );
            assert_eq!(taken_over(&before, &after).source.len(), before.source.len());
        }
    }
}
