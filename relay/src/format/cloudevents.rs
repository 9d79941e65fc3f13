//! Rows as CloudEvents 1.0, in binary or structured mode, for Kafka or AMQP.
//!
//! | attribute | from |
//! |---|---|
//! | `id`, `type` | the columns of that name |
//! | `source` | a setting |
//! | `subject`, `partitionkey` | `aggregateid`, where there is one |
//! | `time` | the header `barid-sent-at` |
//! | `datacontenttype` | the header `content-type`, or a setting |
//! | `correlationid`, `causationid` | `barid-correlation-id`, `barid-causation-id` |
//! | `traceparent`, `tracestate` | the trace context; they are headers of the message, too |
//! | any other | a header that may be an attribute: up to 20 of `a-z` and `0-9`, and no name of the specification's |
//!
//! Headers that are no attributes travel beside the event under their own names. In binary mode the payload is the body, byte for
//! byte. In structured mode it is a member of a JSON object: JSON as it is, text as a string, everything else in base64.

use std::{borrow::Cow, sync::Arc};

use barid::{
    headers,
    transport::{OutgoingRow, Wire},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::IgnoredAny;

use super::{Problem, json::Object, trace};

/// What structured events are.
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// Names of the specification that no header may take.
const TAKEN: [&str; 11] = [
    "id",
    "source",
    "type",
    "specversion",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "partitionkey",
    "traceparent",
];

/// Where the attributes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In headers, and the payload is the body.
    #[default]
    Binary,
    /// In the body, as JSON, with the payload in it.
    Structured,
}

/// The protocol binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Headers `ce_..`, and `content-type` as a header.
    Kafka,
    /// Headers `cloudEvents_..`, and `content-type` as a property.
    Amqp,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Default: binary.
    pub mode: Mode,
    /// Of the sink.
    pub binding: Binding,
    /// The attribute `source`: a URI reference that, together with the id, tells the event from all others.
    pub source: String,
    /// The attribute `datacontenttype` of rows that do not say it.
    pub content_type: String,
}

/// See the module.
#[derive(Debug)]
pub struct CloudEvents {
    settings: Settings,
}

/// One event, taken from a row.
struct Event<'a> {
    /// All but `datacontenttype`, with their values.
    attributes: Vec<(&'a str, Cow<'a, str>)>,
    content_type: &'a str,
    /// Headers that are none of them.
    beside: Vec<(&'a str, &'a str)>,
}

impl CloudEvents {
    /// Events with these settings.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let bad =
            |text: &str| text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control());
        if bad(&settings.source) {
            let what = format!("{:?} is no URI reference: write for instance /orders", settings.source);
            problems.push(Problem::new("event_source", what));
        }
        if !settings.content_type.contains('/') || settings.content_type.contains(char::is_control) {
            let what =
                format!("{:?} is no media type: write for instance application/json", settings.content_type);
            problems.push(Problem::new("content_type", what));
        }
        if problems.is_empty() { Ok(Self { settings }) } else { Err(problems) }
    }

    pub(super) fn apply(&self, row: &mut OutgoingRow) -> Result<(), String> {
        let event = self.event(row)?;
        let mut wire = Wire::default();
        let mut body = None;
        match self.settings.mode {
            Mode::Binary => {
                let prefix = match self.settings.binding {
                    Binding::Kafka => "ce_",
                    Binding::Amqp => "cloudEvents_",
                };
                for (name, value) in &event.attributes {
                    wire.push(format!("{prefix}{name}"), value.as_ref());
                }
                self.content_type(&mut wire, event.content_type);
            }
            Mode::Structured => {
                body = Some(structured(&event, row.payload.as_deref())?);
                self.content_type(&mut wire, STRUCTURED);
            }
        }
        event.beside.iter().for_each(|(name, value)| wire.push(*name, *value));
        row.payload = body.map_or(row.payload.take(), |body| Some(body.into()));
        row.wire = Some(Arc::new(wire));
        Ok(())
    }

    fn content_type(&self, wire: &mut Wire, content_type: &str) {
        match self.settings.binding {
            Binding::Kafka => wire.push(headers::CONTENT_TYPE, content_type),
            Binding::Amqp => wire.content_type = Some(content_type.to_owned()),
        }
    }

    fn event<'a>(&'a self, row: &'a OutgoingRow) -> Result<Event<'a>, String> {
        let mut attributes: Vec<(&str, Cow<'_, str>)> = vec![
            ("specversion", "1.0".into()),
            ("id", row.id.to_string().into()),
            ("source", self.settings.source.as_str().into()),
            ("type", row.name.as_str().into()),
        ];
        if row.name.is_empty() {
            return Err(
                "it has no type, which every CloudEvent needs; correct what writes this row".to_owned()
            );
        }
        if let Some(key) = row.aggregateid.as_deref().filter(|key| !key.is_empty()) {
            attributes.extend([("subject", key.into()), ("partitionkey", key.into())]);
        }
        let (mut beside, mut content_type) = (Vec::new(), self.settings.content_type.as_str());
        for (name, value) in row.headers.iter() {
            match name {
                headers::CONTENT_TYPE => content_type = value,
                headers::SENT_AT if is_time(value) => attributes.push(("time", value.into())),
                headers::CORRELATION_ID => attributes.push(("correlationid", value.into())),
                headers::CAUSATION_ID => attributes.push(("causationid", value.into())),
                headers::TRACEPARENT | headers::TRACESTATE => {}
                name if is_extension(name) && attributes.iter().all(|(other, _)| *other != name) => {
                    attributes.push((name, value.into()));
                }
                name => beside.push((name, value)),
            }
        }
        for (name, value) in trace::of(row) {
            attributes.push((name, value.into()));
            beside.push((name, value));
        }
        let spoiled = attributes.iter().find(|(_, value)| value.contains(char::is_control));
        if let Some((name, value)) = spoiled {
            return Err(format!(
                "attribute {name} {value:?} has control characters, which no CloudEvent may have"
            ));
        }
        Ok(Event { attributes, content_type, beside })
    }
}

/// The event as JSON.
fn structured(event: &Event<'_>, payload: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let texts: usize = event.attributes.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    let mut object = Object::with_capacity(texts + payload.map_or(0, <[u8]>::len) * 4 / 3 + 64);
    for (name, value) in &event.attributes {
        object.text(name, Some(value));
    }
    object.text("datacontenttype", Some(event.content_type));
    match payload {
        None => {}
        Some(json) if is_json(event.content_type) => {
            serde_json::from_slice::<IgnoredAny>(json).map_err(|error| {
                format!(
                    "the payload is no JSON ({error}), and its content type is {:?}; set the header content-type to what it is",
                    event.content_type
                )
            })?;
            object.raw("data", json.trim_ascii());
        }
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if media(event.content_type).starts_with("text/") => object.text("data", Some(text)),
            _ => object.text("data_base64", Some(&STANDARD.encode(bytes))),
        },
    }
    Ok(object.end())
}

/// The media type without its parameters, in small letters.
fn media(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let media = media(content_type);
    media.ends_with("/json") || media.ends_with("+json")
}

fn is_time(text: &str) -> bool {
    chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

fn is_extension(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    plain && (1..=20).contains(&name.len()) && !TAKEN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::row;

    const ID: &str = "4d47e190-0402-4048-bc2c-89dd54343cdc";
    const SENT_AT: &str = "2026-11-21T01:02:03.400Z";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn made(mode: Mode, binding: Binding) -> CloudEvents {
        let (source, content_type) = ("/orders".to_owned(), "application/json".to_owned());
        CloudEvents::new(Settings { mode, binding, source, content_type }).unwrap()
    }

    fn headers(row: &OutgoingRow) -> Vec<(&str, &str)> {
        row.wire.as_ref().unwrap().each().collect()
    }

    #[test]
    fn binary_on_kafka() {
        let sent = [("barid-sent-at", SENT_AT), ("tenant", "blue"), ("x-trial", "1"), ("source", "mine")];
        let mut row = row(Some("{\"a\": 1}"), &sent);
        row.tracingspancontext = Some(PARENT.to_owned());
        made(Mode::Binary, Binding::Kafka).apply(&mut row).unwrap();
        assert_eq!(row.payload.as_deref(), Some(&b"{\"a\": 1}"[..]));
        let all = [
            ("ce_specversion", "1.0"),
            ("ce_id", ID),
            ("ce_source", "/orders"),
            ("ce_type", "OrderCreated"),
            ("ce_subject", "1"),
            ("ce_partitionkey", "1"),
            ("ce_time", SENT_AT),
            ("ce_tenant", "blue"),
            ("ce_traceparent", PARENT),
            ("content-type", "application/json"),
            ("source", "mine"),
            ("x-trial", "1"),
            ("traceparent", PARENT),
        ];
        assert_eq!(headers(&row), all);
    }

    #[test]
    fn binary_on_amqp_has_its_content_type_as_a_property() {
        let mut row = row(Some("x"), &[("content-type", "text/plain"), ("barid-correlation-id", "c")]);
        row.aggregateid = None;
        made(Mode::Binary, Binding::Amqp).apply(&mut row).unwrap();
        let all = [
            ("cloudEvents_specversion", "1.0"),
            ("cloudEvents_id", ID),
            ("cloudEvents_source", "/orders"),
            ("cloudEvents_type", "OrderCreated"),
            ("cloudEvents_correlationid", "c"),
        ];
        assert_eq!(headers(&row), all);
        assert_eq!(row.wire.as_ref().unwrap().content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn structured_holds_the_payload_as_what_it_is() {
        let check = |content_type: &str, payload: Option<&[u8]>, data: &str| {
            let mut row = row(None, &[("content-type", content_type), ("x-trial", "1")]);
            row.payload = payload.map(bytes::Bytes::copy_from_slice);
            made(Mode::Structured, Binding::Kafka).apply(&mut row).unwrap();
            let expected = format!(
                "{{\"specversion\":\"1.0\",\"id\":\"{ID}\",\"source\":\"/orders\",\"type\":\"OrderCreated\",\"subject\":\"1\",\
                 \"partitionkey\":\"1\",\"datacontenttype\":\"{content_type}\"{data}}}"
            );
            assert_eq!(String::from_utf8_lossy(row.payload.as_deref().unwrap()), expected);
            assert_eq!(headers(&row), [("content-type", STRUCTURED), ("x-trial", "1")]);
        };
        check("application/json", Some(b" {\"a\": [1.0, 2]}\n"), ",\"data\":{\"a\": [1.0, 2]}");
        check("Application/vnd.shop+JSON; v=1", Some(b"\"x\""), ",\"data\":\"x\"");
        check("text/plain", Some("ä\n".as_bytes()), ",\"data\":\"ä\\n\"");
        check("text/plain", Some(&[0xff]), ",\"data_base64\":\"/w==\"");
        check("application/avro", Some(b"abc"), ",\"data_base64\":\"YWJj\"");
        check("application/json", None, "");
    }

    #[test]
    fn what_makes_no_event_says_why() {
        let check = |spoil: fn(&mut OutgoingRow), says: &str| {
            let mut row = row(Some("{"), &[]);
            spoil(&mut row);
            let why = made(Mode::Structured, Binding::Amqp).apply(&mut row).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        check(|_| {}, "the payload is no JSON");
        check(|row| row.name.clear(), "has no type");
        check(
            |row| row.aggregateid = Some("a\nb".to_owned()),
            "attribute subject \"a\\nb\" has control characters",
        );
    }

    #[test]
    fn settings_that_cannot_be_used_are_all_reported() {
        let (source, content_type) = ("a b".to_owned(), "json".to_owned());
        let settings = Settings { mode: Mode::Binary, binding: Binding::Kafka, source, content_type };
        let problems = CloudEvents::new(settings).unwrap_err();
        assert_eq!(
            problems.iter().map(|problem| problem.key).collect::<Vec<_>>(),
            ["event_source", "content_type"]
        );
    }
}
