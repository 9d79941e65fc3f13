//! Every metric of the relay: its name, its meaning, and the page that `/metrics` answers with.
//!
//! Names are here and nowhere else. What a relay counts is in its [`Meter`], what its database says in a [`Survey`]; this module
//! only writes both down, in the text format of Prometheus, and asks nobody.

use std::time::Duration;

use barid::transport::Link;

use crate::{lane::Stats, survey::Survey};

pub mod histogram;
pub mod meter;
mod text;

use self::{
    meter::{ANSWERS, Meter},
    text::Page,
};

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times in buckets.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As `/metrics` has it.
    pub name: &'static str,
    /// What it is to Prometheus.
    pub kind: Kind,
    /// What it means, for whoever reads `/metrics`.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($name:ident = $kind:ident $text:literal $help:literal;)*) => {
        $(const $name: Metric = Metric { name: concat!("barid_relay_", $text), kind: Kind::$kind, help: $help };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($name),*];
    };
}

metrics! {
    INFO = Gauge "info" "Always 1; the version and the name of this relay.";
    SOURCE_UP = Gauge "source_up" "Whether this relay works on the source or stands by: 0 before its database was opened, and after a fault that ended it.";
    LEASE_HELD = Gauge "lease_held" "Whether the source is this relay's. Over all relays of a source the sum is 1, and 0 while nobody works on it.";
    LEASE_EPOCH = Gauge "lease_epoch" "Number of the last ownership by this relay; each change of owner raises it.";
    PUBLISHED = Counter "published_total" "Rows handed to a sink, repetitions included.";
    ANSWERED = Counter "answers_total" "Answers of a sink: confirmed; transient and unknown are sent again; permanent are parked.";
    DELIVERY = Histogram "commit_to_confirm_seconds" "From the begin of the transaction that wrote a row (created_at, by the database's clock) to its confirm.";
    IN_FLIGHT_ROWS = Gauge "in_flight_rows" "Rows published and not yet answered.";
    IN_FLIGHT_BYTES = Gauge "in_flight_bytes" "Bytes of their payloads.";
    BUFFERED_ROWS = Gauge "buffered_rows" "Rows between reading and deleting.";
    BUFFERED_BYTES = Gauge "buffered_bytes" "Bytes of their payloads.";
    SINK_UP = Gauge "sink_up" "Whether the broker can be reached, as far as is known; 0 while this relay does not own the source.";
    SINK_BLOCKED = Gauge "sink_blocked" "Whether the broker takes no messages for now, as RabbitMQ does when it lacks memory or disk.";
    PARKED = Counter "parked_total" "Rows that were parked, by state: poison holds its key, behind waits behind one, skipped holds nobody.";
    LATE = Counter "late_rows_total" "Rows parked because they appeared where nothing could appear any more; poison counts them too.";
    RELEASED = Counter "released_total" "Parked rows that were put back into the outbox.";
    ORDER_BREAKS = Counter "order_breaks_total" "Rows of a pipelined key that were confirmed before an earlier row of that key.";
    PENDING = Gauge "pending_messages" "Rows in the outbox, from 100,000 on estimated by their positions.";
    OLDEST = Gauge "oldest_pending_age_seconds" "Age of the first row in line, by the database's clock; 0 when nothing waits.";
    PARKED_MESSAGES = Gauge "parked_messages" "Messages that are parked now, by state.";
    BLOCKED_KEYS = Gauge "blocked_keys" "Keys that a poison message holds.";
    OLDEST_TRANSACTION = Gauge "oldest_transaction_age_seconds" "How long the oldest transaction in the source's database has been open; absent where the role may not see it.";
    SURVEY_AGE = Gauge "survey_age_seconds" "How long ago the database was last asked for pending, parked and blocked.";
    SURVEY_FAILURES = Counter "survey_failures_total" "How often it did not answer.";
}

/// What is known of one source.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether a relay works on it or stands by.
    pub up: bool,
    /// What its relay counts, once there is one.
    pub meter: Option<&'a Meter>,
    /// The counters of its lanes.
    pub stats: Stats,
    /// What its database said, and how long ago.
    pub survey: Option<(&'a Survey, Duration)>,
    /// How often it did not answer.
    pub survey_failures: u64,
}

/// The page for Prometheus: text format, version 0.0.4.
#[must_use]
pub fn page(version: &str, instance: &str, sources: &[View<'_>]) -> String {
    let mut page = Page::default();
    page.family(&INFO, |family| family.sample(&[("version", version), ("relay", instance)], 1.0));
    per_source(&mut page, sources);
    per_sink(&mut page, sources);
    surveys(&mut page, sources);
    page.end()
}

fn per_source(page: &mut Page, sources: &[View<'_>]) {
    let mut of_each = |metric: &Metric, value: &dyn Fn(&View<'_>) -> Option<f64>| {
        page.family(metric, |family| {
            for source in sources {
                if let Some(value) = value(source) {
                    family.sample(&[("source", source.name)], value);
                }
            }
        });
    };
    of_each(&SOURCE_UP, &|source| Some(flag(source.up)));
    of_each(&LEASE_HELD, &|source| Some(flag(source.meter.is_some_and(|meter| meter.ownership().1))));
    of_each(&LEASE_EPOCH, &|source| Some(signed(source.meter?.ownership().0.0)));
    of_each(&BUFFERED_ROWS, &|source| Some(count(source.meter?.buffered().0)));
    of_each(&BUFFERED_BYTES, &|source| Some(count(source.meter?.buffered().1)));
    of_each(&LATE, &|source| Some(total(source.stats.late)));
    of_each(&RELEASED, &|source| Some(total(source.stats.released)));
    of_each(&ORDER_BREAKS, &|source| Some(total(source.stats.breaks)));
    of_each(&SURVEY_FAILURES, &|source| Some(total(source.survey_failures)));
    page.family(&PARKED, |family| {
        for View { name, stats, .. } in sources {
            for (state, rows) in
                [("poison", stats.poison), ("behind", stats.behind), ("skipped", stats.skipped)]
            {
                family.sample(&[("source", name), ("state", state)], total(rows));
            }
        }
    });
}

fn per_sink(page: &mut Page, sources: &[View<'_>]) {
    let metered = || sources.iter().filter_map(|source| Some((source.name, source.meter?)));
    let each = || metered().flat_map(|(name, meter)| meter.sinks().iter().map(move |sink| (name, sink)));
    let mut of_each = |metric: &Metric, value: &dyn Fn(&meter::SinkMeter) -> f64| {
        page.family(metric, |family| {
            for (source, sink) in each() {
                family.sample(&[("source", source), ("sink", &sink.name)], value(sink));
            }
        });
    };
    of_each(&IN_FLIGHT_ROWS, &|sink| count(sink.in_flight().0));
    of_each(&IN_FLIGHT_BYTES, &|sink| count(sink.in_flight().1));
    of_each(&SINK_UP, &|sink| flag(sink.link() != Link::Down));
    of_each(&SINK_BLOCKED, &|sink| flag(sink.link() == Link::Blocked));
    page.family(&DELIVERY, |family| {
        for (source, sink) in each() {
            family.histogram(&[("source", source), ("sink", &sink.name)], &sink.delivery);
        }
    });
    page.family(&PUBLISHED, |family| {
        for (source, meter) in metered() {
            meter.each_route(|sink, destination, route| {
                let labels = [("source", source), ("sink", &sink.name), ("destination", destination)];
                family.sample(&labels, total(route.published()));
            });
        }
    });
    page.family(&ANSWERED, |family| {
        for (source, meter) in metered() {
            meter.each_route(|sink, destination, route| {
                for (answer, rows) in ANSWERS.iter().zip(route.answers()) {
                    let labels = [
                        ("source", source),
                        ("sink", &sink.name),
                        ("destination", destination),
                        ("answer", *answer),
                    ];
                    family.sample(&labels, total(rows));
                }
            });
        }
    });
}

fn surveys(page: &mut Page, sources: &[View<'_>]) {
    let surveyed = || sources.iter().filter_map(|source| Some((source.name, source.survey?)));
    let mut of_each = |metric: &Metric, value: &dyn Fn(&Survey, Duration) -> Option<f64>| {
        page.family(metric, |family| {
            for (source, (survey, age)) in surveyed() {
                if let Some(value) = value(survey, age) {
                    family.sample(&[("source", source)], value);
                }
            }
        });
    };
    of_each(&PENDING, &|survey, _| Some(signed(survey.pending)));
    of_each(&OLDEST, &|survey, _| Some(survey.oldest.unwrap_or_default().as_secs_f64()));
    of_each(&BLOCKED_KEYS, &|survey, _| Some(signed(survey.blocked_keys)));
    of_each(&OLDEST_TRANSACTION, &|survey, _| Some(survey.oldest_transaction?.as_secs_f64()));
    of_each(&SURVEY_AGE, &|_, age| Some(age.as_secs_f64()));
    page.family(&PARKED_MESSAGES, |family| {
        for (source, (survey, _)) in surveyed() {
            for (state, messages) in survey.parked.by_state() {
                family.sample(&[("source", source), ("state", state)], signed(messages));
            }
        }
    });
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

#[allow(clippy::cast_precision_loss)] // nobody counts to 2^53
fn total(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss)] // as above
fn signed(number: i64) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss)] // as above
fn count(number: usize) -> f64 {
    number as f64
}
