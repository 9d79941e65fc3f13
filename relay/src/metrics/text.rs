//! The text format of Prometheus, version 0.0.4: one family after the other, each with its help and its type.

use std::fmt::Write as _;

use super::{Kind, Metric, histogram::Histogram};

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// The samples of one metric.
pub(super) struct Family<'a> {
    metric: &'a Metric,
    text: String,
}

impl Page {
    /// Writes one metric with all its samples; nothing when there are none.
    pub(super) fn family(&mut self, metric: &Metric, write: impl FnOnce(&mut Family<'_>)) {
        let mut family = Family { metric, text: String::new() };
        write(&mut family);
        if family.text.is_empty() {
            return;
        }
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail; here and below.
        let _ = writeln!(self.text, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(self.text, "# TYPE {} {kind}", metric.name);
        self.text.push_str(&family.text);
    }

    pub(super) fn end(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// One value.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, None, value);
    }

    /// All buckets, the sum and the number.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        #[allow(clippy::cast_precision_loss)] // nobody counts to 2^53
        let number = |count: u64| count as f64;
        let (ends, all, sum) = histogram.cumulative();
        for (end, up_to) in ends {
            self.line("_bucket", labels, Some(&end.to_string()), number(up_to));
        }
        self.line("_bucket", labels, Some("+Inf"), number(all));
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, number(all));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], end: Option<&str>, value: f64) {
        self.text.push_str(self.metric.name);
        self.text.push_str(suffix);
        for (at, (name, text)) in labels.iter().copied().chain(end.map(|end| ("le", end))).enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            escape(text, &mut self.text);
            self.text.push('"');
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// The value of a label: whoever names a source chooses it.
fn escape(text: &str, into: &mut String) {
    for letter in text.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            letter => into.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_line() {
        let metric = Metric { name: "m", kind: Kind::Gauge, help: "h" };
        let mut page = Page::default();
        page.family(&metric, |family| family.sample(&[("a", "x\"y\\z\n"), ("b", "é")], 0.5));
        page.family(&Metric { name: "empty", ..metric }, |_| ());
        assert_eq!(page.end(), "# HELP m h\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\",b=\"é\"} 0.5\n");
    }

    #[test]
    fn a_histogram_ends_with_all() {
        let metric = Metric { name: "t_seconds", kind: Kind::Histogram, help: "h" };
        let histogram = Histogram::default();
        histogram.observe(std::time::Duration::from_millis(3));
        let mut page = Page::default();
        page.family(&metric, |family| family.histogram(&[("a", "b")], &histogram));
        let text = page.end();
        for line in [
            "t_seconds_bucket{a=\"b\",le=\"0.002\"} 0\n",
            "t_seconds_bucket{a=\"b\",le=\"0.005\"} 1\n",
            "t_seconds_bucket{a=\"b\",le=\"+Inf\"} 1\nt_seconds_sum{a=\"b\"} 0.003\nt_seconds_count{a=\"b\"} 1\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
