//! `[format.NAME]`: the form in which a route's messages are sent, and which sinks can send it.

use std::fmt;

use serde::Deserialize;

use super::{Config, RouteConfig, SinkKind, keys};
use crate::format::{
    CloudEvents, Debezium, Format, Mode, Problem,
    cloudevents::{self, Binding},
    debezium,
};

/// The transports' own form, which needs no section.
const OWN: &str = "barid";

/// What rows are taken for that do not say what they hold.
const CONTENT_TYPE: &str = "application/json";

/// `[format.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormatConfig {
    /// `debezium` (for Kafka) or `cloudevents` (for Kafka and RabbitMQ).
    pub kind: String,
    /// Debezium's `route.by.field`: a column of the outbox or a header. Default: `aggregatetype`.
    pub route_by: Option<String>,
    /// Debezium's `route.topic.regex`. Default: `(?<routedByValue>.*)`.
    pub topic_regex: Option<String>,
    /// Debezium's `route.topic.replacement`. Default: `outbox.event.${routedByValue}`.
    pub topic_replacement: Option<String>,
    /// Debezium's `table.fields.additional.placement`, for instance `type:header:eventType,tenant:envelope`. Default: none.
    pub additional: Option<String>,
    /// Debezium's `route.tombstone.on.empty.payload`. Default: false.
    pub tombstone_on_empty_payload: Option<bool>,
    /// CloudEvents: `binary` or `structured`. Default: `binary`.
    pub mode: Option<String>,
    /// CloudEvents: the attribute `source`, a URI reference. Default: `/NAME` of the `[source.NAME]`.
    pub event_source: Option<String>,
    /// CloudEvents: what rows hold whose headers have no `content-type`. Default: `application/json`.
    pub content_type: Option<String>,
}

/// The kinds there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Debezium,
    CloudEvents,
}

impl Kind {
    const ALL: [(&'static str, Self); 2] = [("debezium", Self::Debezium), ("cloudevents", Self::CloudEvents)];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(known, kind)| (known == name).then_some(kind))
    }

    fn sinks(self) -> &'static [SinkKind] {
        match self {
            Self::Debezium => &[SinkKind::Kafka],
            Self::CloudEvents => &[SinkKind::Kafka, SinkKind::Rabbitmq],
        }
    }
}

impl FormatConfig {
    /// The keys that are set, each with the kind that it means something to.
    fn set(&self) -> impl Iterator<Item = (&'static str, Kind)> {
        let all = [
            ("route_by", self.route_by.is_some(), Kind::Debezium),
            ("topic_regex", self.topic_regex.is_some(), Kind::Debezium),
            ("topic_replacement", self.topic_replacement.is_some(), Kind::Debezium),
            ("additional", self.additional.is_some(), Kind::Debezium),
            ("tombstone_on_empty_payload", self.tombstone_on_empty_payload.is_some(), Kind::Debezium),
            ("mode", self.mode.is_some(), Kind::CloudEvents),
            ("event_source", self.event_source.is_some(), Kind::CloudEvents),
            ("content_type", self.content_type.is_some(), Kind::CloudEvents),
        ];
        all.into_iter().filter(|(_, set, _)| *set).map(|(key, _, kind)| (key, kind))
    }

    fn debezium(&self) -> debezium::Settings {
        let default = debezium::Settings::default();
        debezium::Settings {
            route_by: self.route_by.clone().unwrap_or(default.route_by),
            topic_regex: self.topic_regex.clone().unwrap_or(default.topic_regex),
            topic_replacement: self.topic_replacement.clone().unwrap_or(default.topic_replacement),
            additional: self.additional.clone().unwrap_or(default.additional),
            tombstone_on_empty_payload: self
                .tombstone_on_empty_payload
                .unwrap_or(default.tombstone_on_empty_payload),
        }
    }

    /// The format for the rows of `source` on a sink of this kind.
    fn make(&self, sink: SinkKind, source: &str) -> Result<Option<Format>, Vec<Problem>> {
        Ok(match Kind::named(&self.kind) {
            None => None,
            Some(Kind::Debezium) => Some(Format::Debezium(Debezium::new(&self.debezium())?)),
            Some(Kind::CloudEvents) => {
                let structured = self.mode.as_deref() == Some("structured");
                let settings = cloudevents::Settings {
                    mode: if structured { Mode::Structured } else { Mode::Binary },
                    binding: if sink == SinkKind::Rabbitmq { Binding::Amqp } else { Binding::Kafka },
                    source: self.event_source.clone().unwrap_or_else(|| format!("/{source}")),
                    content_type: self.content_type.clone().unwrap_or_else(|| CONTENT_TYPE.to_owned()),
                };
                Some(Format::CloudEvents(CloudEvents::new(settings)?))
            }
        })
    }

    /// As TOML, defaults included.
    pub(super) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind = {:?}", self.kind)?;
        if Kind::named(&self.kind) == Some(Kind::Debezium) {
            let all = self.debezium();
            let texts = [
                ("route_by", &all.route_by),
                ("topic_regex", &all.topic_regex),
                ("topic_replacement", &all.topic_replacement),
                ("additional", &all.additional),
            ];
            for (key, text) in texts {
                writeln!(f, "{key} = {text:?}")?;
            }
            return writeln!(f, "tombstone_on_empty_payload = {}", all.tombstone_on_empty_payload);
        }
        writeln!(f, "mode = {:?}", self.mode.as_deref().unwrap_or("binary"))?;
        if let Some(source) = &self.event_source {
            writeln!(f, "event_source = {source:?}")?;
        }
        writeln!(f, "content_type = {:?}", self.content_type.as_deref().unwrap_or(CONTENT_TYPE))
    }
}

impl Config {
    /// The format in which a route's messages of this source are sent; none for the transports' own.
    ///
    /// # Errors
    /// Settings that cannot be used; a configuration that was read has none.
    pub fn format(&self, route: &RouteConfig, source: &str) -> Result<Option<Format>, Vec<Problem>> {
        let (Some(format), Some(sink)) = (self.format_config(route), self.sink.get(&route.sink)) else {
            return Ok(None);
        };
        format.make(sink.kind, source)
    }

    /// The section that a route's format has, or what a kind is without one.
    fn format_config(&self, route: &RouteConfig) -> Option<FormatConfig> {
        let name = route.format.as_deref()?;
        let plain =
            || Kind::named(name).map(|_| FormatConfig { kind: name.to_owned(), ..FormatConfig::default() });
        self.format.get(name).cloned().or_else(plain)
    }
}

impl RouteConfig {
    /// The name of its format.
    #[must_use]
    pub fn format_name(&self) -> &str {
        self.format.as_deref().unwrap_or(OWN)
    }
}

/// Everything that does not fit together.
pub(super) fn check(config: &Config, say: &mut impl FnMut(&[&str], String)) {
    for (name, format) in &config.format {
        check_format(name, format, say);
    }
    for (at, route) in config.route.iter().enumerate() {
        let (at, wanted) = (at.to_string(), route.format_name());
        if wanted == OWN {
            continue;
        }
        let Some(format) = config.format_config(route) else {
            let known = [OWN].into_iter().chain(Kind::ALL.map(|(name, _)| name));
            let known: Vec<&str> = known.chain(config.format.keys().map(String::as_str)).collect();
            let what = format!(
                "[[route]] asks for format {wanted:?}, which does not exist (formats: {})",
                known.join(", ")
            );
            say(&["route", &at, "format"], what);
            continue;
        };
        let (Some(kind), Some(sink)) = (Kind::named(&format.kind), config.sink.get(&route.sink)) else {
            continue;
        };
        if !kind.sinks().contains(&sink.kind) {
            let can: Vec<&str> = kind.sinks().iter().map(|kind| kind.as_str()).collect();
            let what = format!(
                "[[route]] asks for format {wanted:?} on sink {:?}, and kind = \"{}\" cannot send kind = \"{}\"; \
                 it is for {}",
                route.sink,
                sink.kind.as_str(),
                format.kind,
                can.join(" and ")
            );
            say(&["route", &at, "format"], what);
        }
    }
}

fn check_format(name: &str, format: &FormatConfig, say: &mut impl FnMut(&[&str], String)) {
    let Some(kind) = Kind::named(&format.kind) else {
        let kinds = Kind::ALL.map(|(name, _)| name);
        let hint = keys::hint(&format.kind, kinds.into_iter());
        let known = format!("[format.{name}] kind must be one of {}", kinds.join(", "));
        let what =
            if format.kind.is_empty() { known } else { format!("{known}, and is {:?}; {hint}", format.kind) };
        return say(&["format", name, "kind"], what);
    };
    if name == OWN {
        say(
            &["format", name],
            format!("[format.{name}]: that name is taken by the own form of the transports"),
        );
    }
    for (key, _) in format.set().filter(|(_, of)| *of != kind) {
        let what =
            format!("\"{key}\" in [format.{name}] means nothing to kind = {:?}: remove it", format.kind);
        say(&["format", name, key], what);
    }
    if let Some(mode) = format.mode.as_deref().filter(|mode| !["binary", "structured"].contains(mode)) {
        let what = format!("mode in [format.{name}] must be \"binary\" or \"structured\", and is {mode:?}");
        say(&["format", name, "mode"], what);
    }
    if let Err(problems) = format.make(kind.sinks()[0], "source") {
        for Problem { key, what } in problems {
            say(&["format", name, key], format!("{key} in [format.{name}]: {what}"));
        }
    }
}

#[cfg(test)]
mod tests;
