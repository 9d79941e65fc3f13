//! The keys that there are, and which of them somebody meant who wrote another one.

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    /// True or false.
    Switch,
    /// Names and texts of somebody else.
    Properties,
}

/// A key of a section and what it holds.
pub(super) type Key = (&'static str, Kind);

pub(super) const SECTIONS: &[&str] = &["source", "sink", "resource", "format", "route", "relay", "admin"];

pub(super) const SOURCE: &[Key] = &[
    ("url", Kind::Text),
    ("url_file", Kind::Text),
    ("batch_rows", Kind::Whole),
    ("poll_min_ms", Kind::Whole),
    ("idle_poll_ms", Kind::Whole),
    ("doorbell", Kind::Text),
    ("listen", Kind::Text),
    ("table", Kind::Text),
    ("preset", Kind::Text),
    ("columns", Kind::Properties),
    ("extra_columns", Kind::Text),
    ("after", Kind::Text),
    ("archive_for_s", Kind::Whole),
];

pub(super) const SINK: &[Key] = &[
    ("kind", Kind::Text),
    ("url", Kind::Text),
    ("url_file", Kind::Text),
    ("brokers", Kind::Text),
    ("topology", Kind::Text),
    ("window_rows_min", Kind::Whole),
    ("window_rows_max", Kind::Whole),
    ("window_bytes_max", Kind::Whole),
    ("body_bytes_max", Kind::Whole),
    ("confirm_timeout_ms", Kind::Whole),
    ("heartbeat_s", Kind::Whole),
    ("channels", Kind::Whole),
    ("ca_file", Kind::Text),
    ("client_certificate_file", Kind::Text),
    ("client_key_file", Kind::Text),
    ("security", Kind::Text),
    ("sasl_mechanism", Kind::Text),
    ("username", Kind::Text),
    ("password", Kind::Text),
    ("password_file", Kind::Text),
    ("transactional_id", Kind::Text),
    ("properties", Kind::Properties),
];

pub(super) const RESOURCE: &[Key] = &[("url", Kind::Text), ("url_file", Kind::Text)];

pub(super) const FORMAT: &[Key] = &[
    ("kind", Kind::Text),
    ("route_by", Kind::Text),
    ("topic_regex", Kind::Text),
    ("topic_replacement", Kind::Text),
    ("additional", Kind::Text),
    ("tombstone_on_empty_payload", Kind::Switch),
    ("mode", Kind::Text),
    ("event_source", Kind::Text),
    ("content_type", Kind::Text),
];

pub(super) const ROUTE: &[Key] = &[
    ("destination", Kind::Text),
    ("sink", Kind::Text),
    ("order", Kind::Text),
    ("on_poison", Kind::Text),
    ("format", Kind::Text),
];

pub(super) const RELAY: &[Key] = &[
    ("buffer_rows_max", Kind::Whole),
    ("buffer_bytes_max", Kind::Whole),
    ("key_rows_max", Kind::Whole),
    ("delete_rows_max", Kind::Whole),
    ("delete_wait_ms", Kind::Whole),
    ("retry_min_ms", Kind::Whole),
    ("retry_max_ms", Kind::Whole),
    ("drain_ms", Kind::Whole),
    ("lease_ms", Kind::Whole),
    ("old_transaction_ms", Kind::Whole),
    ("instance", Kind::Text),
];

pub(super) const ADMIN: &[Key] =
    &[("listen", Kind::Text), ("token", Kind::Text), ("token_file", Kind::Text), ("survey_ms", Kind::Whole)];

/// Whether there is one section of this name, so that its keys follow at once.
pub(super) fn is_single(section: &str) -> bool {
    matches!(section, "relay" | "admin")
}

/// The keys of a section.
pub(super) fn of(section: &str) -> &'static [Key] {
    match section {
        "source" => SOURCE,
        "sink" => SINK,
        "resource" => RESOURCE,
        "format" => FORMAT,
        "route" => ROUTE,
        "admin" => ADMIN,
        _ => RELAY,
    }
}

/// What to say after "unknown key": the nearest one there is, or all of them.
pub(super) fn hint<'a>(unknown: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match known.clone().map(|key| (distance(unknown, key), key)).min() {
        Some((distance, key)) if distance <= 2.max(key.len() / 3) => format!("did you mean \"{key}\"?"),
        _ => format!("known keys: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// How many letters have to be put in, left out, replaced or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        for (wrong, meant) in [
            ("ulr", "url"),
            ("batch_row", "batch_rows"),
            ("idle_poll", "idle_poll_ms"),
            ("urlfile", "url_file"),
        ] {
            assert_eq!(hint(wrong, SOURCE.iter().map(|key| key.0)), format!("did you mean \"{meant}\"?"));
        }
        assert!(hint("colour", SOURCE.iter().map(|key| key.0)).starts_with("known keys: url, "));
    }
}
