//! W3C trace context, from the column `tracingspancontext` to headers.
//!
//! The column holds a `traceparent`, or what Debezium's applications write there: the text of Java properties with a line
//! `traceparent=..`. Other contexts in such a text (Jaeger's, Zipkin's) are no W3C contexts and are left out.

use barid::{headers, transport::OutgoingRow};

/// `traceparent` and `tracestate` of a row, as far as it has them.
pub(super) fn of(row: &OutgoingRow) -> impl Iterator<Item = (&'static str, &str)> {
    let parent = row.tracingspancontext.as_deref().or_else(|| row.headers.get(headers::TRACEPARENT));
    let state = row.headers.get(headers::TRACESTATE).filter(|_| parent.is_some());
    [(headers::TRACEPARENT, parent), (headers::TRACESTATE, state)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}

/// Whether a column holds the text of properties and not a bare `traceparent`.
#[must_use]
pub fn is_properties(column: &str) -> bool {
    column.contains('=')
}

/// `traceparent` and `tracestate` in the text of properties.
#[must_use]
pub fn from_properties(text: &str) -> (Option<String>, Option<String>) {
    let value = |wanted: &str| {
        text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', '!'])).find_map(|line| {
            // The first `=` or `:` that is not escaped ends the name; those that are wanted have none.
            let (name, value) = line.split_once(['=', ':'])?;
            (name.trim_end() == wanted).then(|| unescaped(value.trim_start()))
        })
    };
    (value(headers::TRACEPARENT), value(headers::TRACESTATE))
}

fn unescaped(value: &str) -> String {
    let mut characters = value.chars();
    let mut plain = String::with_capacity(value.len());
    while let Some(character) = characters.next() {
        // Only printable ASCII is in a trace context: none of the longer escapes stands for one that has to be escaped.
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn properties_are_read_as_java_writes_them() {
        let text = format!("#Tue Nov 24 10:00:00 UTC 2026\ntracestate=a\\=1,b\\:c\ntraceparent={PARENT}\n");
        assert!(is_properties(&text) && !is_properties(PARENT));
        assert_eq!(from_properties(&text), (Some(PARENT.to_owned()), Some("a=1,b:c".to_owned())));
        assert_eq!(from_properties("uber-trace-id=1\\:2\\:0\\:1\n"), (None, None));
        assert_eq!(from_properties("#traceparent=x\n"), (None, None));
    }

    #[test]
    fn a_state_travels_only_with_its_parent() {
        let mut row = crate::format::tests::row(None, &[(headers::TRACESTATE, "a=1")]);
        assert_eq!(of(&row).count(), 0);
        row.tracingspancontext = Some(PARENT.to_owned());
        assert_eq!(of(&row).collect::<Vec<_>>(), [("traceparent", PARENT), ("tracestate", "a=1")]);
    }
}
