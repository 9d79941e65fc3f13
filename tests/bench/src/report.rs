//! Rounds, their medians, and how they are printed.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Map, Value, json};

/// What both sides of a bench reached, round by round.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    /// What `ours` and `bare` are counted in.
    unit: &'static str,
    rounds: Vec<Round>,
    conditions: Map<String, Value>,
    notes: Vec<String>,
}

/// Figures of one round: what is compared, and what else was measured in it.
#[derive(Debug)]
pub(crate) struct Round {
    /// In the unit of the report; messages or rows a second unless it says something else.
    pub(crate) ours: f64,
    /// The same, by hand.
    pub(crate) bare: f64,
    /// Other figures, by name: the table has a column for each.
    pub(crate) others: Vec<(&'static str, f64)>,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.ours / self.bare
    }
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self { bench, unit: "/s", rounds: Vec::new(), conditions: Map::new(), notes: Vec::new() }
    }

    /// The same with figures in another unit.
    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Whether there was no round yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Says under which conditions the figures hold.
    pub(crate) fn condition(&mut self, name: &str, value: impl Into<Value>) {
        self.conditions.insert(name.to_owned(), value.into());
    }

    /// Says something on a line of its own, below the table.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(crate) fn round(&mut self, round: Round) {
        eprintln!(
            "{}: round {}: ours {} {unit}, bare {} {unit}, ratio {:.3}",
            self.bench,
            self.rounds.len() + 1,
            rounded(round.ours),
            rounded(round.bare),
            round.ratio(),
            unit = self.unit,
        );
        self.rounds.push(round);
    }

    /// The table, then the line for machines.
    pub(crate) fn print(&self) {
        println!("{}", self.table());
        for note in &self.notes {
            println!("{note}");
        }
        println!("{}", self.json());
    }

    fn table(&self) -> Table {
        let names = self.rounds.first().map_or(&[][..], |round| &round.others);
        let mut table = Table::new();
        let (ours, bare) = (format!("ours {}", self.unit), format!("bare {}", self.unit));
        let titles = ["round".to_owned(), ours, bare, "ratio".to_owned()];
        table.set_header(titles.into_iter().chain(names.iter().map(|(name, _)| (*name).to_owned())));
        for (at, round) in self.rounds.iter().enumerate() {
            table.add_row(row(&(at + 1).to_string(), round));
        }
        table.add_row(row("median", &self.medians()));
        table
    }

    /// The median of each column; not a round that happened.
    fn medians(&self) -> Round {
        let other = |name| {
            self.rounds.iter().filter_map(move |round| Some(round.others.iter().find(|(n, _)| *n == name)?.1))
        };
        let names = self.rounds.first().map_or(&[][..], |round| &round.others);
        Round {
            ours: median(self.rounds.iter().map(|round| round.ours)),
            bare: median(self.rounds.iter().map(|round| round.bare)),
            others: names.iter().map(|(name, _)| (*name, median(other(*name)))).collect(),
        }
    }

    fn json(&self) -> Value {
        let medians = self.medians();
        let ratios: Vec<_> = self.rounds.iter().map(|round| rounded(round.ratio())).collect();
        let mut all = Map::new();
        all.insert("bench".to_owned(), self.bench.into());
        all.insert("unit".to_owned(), self.unit.into());
        all.insert("ours".to_owned(), json!(rounded(medians.ours)));
        all.insert("bare".to_owned(), json!(rounded(medians.bare)));
        all.insert("ratio".to_owned(), json!(rounded(median(self.rounds.iter().map(Round::ratio)))));
        all.insert("ratios".to_owned(), json!(ratios));
        for (name, value) in medians.others {
            all.insert(name.replace([' ', '/', '-'], "_"), json!(rounded(value)));
        }
        all.extend(self.conditions.clone());
        all.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        Value::Object(all)
    }
}

fn row(name: &str, round: &Round) -> Vec<Cell> {
    let ratio = if name == "median" { String::new() } else { format!("{:.3}", round.ratio()) };
    let figures = [name.to_owned(), rounded(round.ours).to_string(), rounded(round.bare).to_string(), ratio];
    let others = round.others.iter().map(|(_, value)| format!("{value:.3}"));
    figures
        .into_iter()
        .chain(others)
        .map(|text| Cell::new(text).set_alignment(CellAlignment::Right))
        .collect()
}

/// To three digits behind the point, or to none when there are enough before it.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1_000.0 { value.round() } else { (value * 1000.0).round() / 1000.0 }
}

/// The value that this share of the values does not exceed.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    // an index
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The medians of two columns.
pub(crate) fn medians_of(pairs: &[(f64, f64)]) -> (f64, f64) {
    (median(pairs.iter().map(|(one, _)| *one)), median(pairs.iter().map(|(_, other)| *other)))
}

/// How many a second.
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let count = count as f64;
    count / took.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() {
        let mut report = Report::new("test");
        for (ours, bare) in [(10.0, 10.0), (90.0, 100.0), (30.0, 20.0)] {
            report.round(Round { ours, bare, others: vec![("bare/publish-only", 0.9)] });
        }
        report.condition("rows", 3);
        let json = report.json();
        assert_eq!((&json["ratio"], &json["ours"], &json["bare"]), (&json!(1.0), &json!(30.0), &json!(20.0)));
        assert_eq!((&json["bare_publish_only"], &json["rows"]), (&json!(0.9), &json!(3)));
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99)), (51.0, 100.0));
    }
}
