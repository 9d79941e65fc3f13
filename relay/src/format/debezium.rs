//! What Debezium's outbox event router makes of a row, so that its consumers notice no difference.
//!
//! The topic comes from a column by a regular expression, the key is `aggregateid`, the value the payload as it is, and the id is
//! the header `id`. Other columns travel where they are placed: as headers, in an envelope around the payload, or as the partition.
//! `relay/README.md` lists what is claimed to be the same, and `tests/acceptance/debezium_parity.rs` compares it.

use std::sync::Arc;

use barid::{
    Destination,
    transport::{OutgoingRow, Wire},
};

use super::{Problem, field::Field, json::Object, push_trace, topic::Router};

/// The settings, under Debezium's names but for their prefixes. The defaults are Debezium's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `route.by.field`: a column of the outbox, or a header. Default: `aggregatetype`.
    pub route_by: String,
    /// `route.topic.regex`. Default: `(?<routedByValue>.*)`.
    pub topic_regex: String,
    /// `route.topic.replacement`. Default: `outbox.event.${routedByValue}`.
    pub topic_replacement: String,
    /// `table.fields.additional.placement`: `FIELD:PLACEMENT[:ALIAS]`, separated by commas; a placement is `header`, `envelope` or
    /// `partition`. Default: none.
    pub additional: String,
    /// `route.tombstone.on.empty.payload`: whether an empty payload is sent as null. Default: false.
    pub tombstone_on_empty_payload: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            route_by: "aggregatetype".to_owned(),
            topic_regex: "(?<routedByValue>.*)".to_owned(),
            topic_replacement: "outbox.event.${routedByValue}".to_owned(),
            additional: String::new(),
            tombstone_on_empty_payload: false,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Debezium {
    route_by: Field,
    router: Router,
    headers: Vec<Placed>,
    envelope: Vec<Placed>,
    partition: Option<Field>,
    tombstones: bool,
}

/// A field, and what it is called in the message.
#[derive(Debug)]
struct Placed {
    field: Field,
    alias: String,
}

impl Debezium {
    /// The router with these settings.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let router = Router::new(&settings.topic_regex, &settings.topic_replacement)
            .map_err(|found| problems.extend(found));
        if settings.route_by.is_empty() {
            problems.push(Problem::new("route_by", "names no field; leave it out for \"aggregatetype\""));
        }
        let (mut headers, mut envelope, mut partition) = (Vec::new(), Vec::new(), None);
        for one in settings.additional.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            match placed(one) {
                Ok((placed, "header")) => headers.push(placed),
                Ok((placed, "envelope")) => envelope.push(placed),
                Ok((placed, _)) if partition.is_none() => partition = Some(placed.field),
                Ok(_) => problems.push(Problem::new("additional", "two fields cannot both be the partition")),
                Err(why) => problems.push(Problem::new("additional", why)),
            }
        }
        let router = match router {
            Ok(router) if problems.is_empty() => router,
            _ => return Err(problems),
        };
        let route_by = Field::named(&settings.route_by);
        let tombstones = settings.tombstone_on_empty_payload;
        Ok(Self { route_by, router, headers, envelope, partition, tombstones })
    }

    pub(super) fn apply(&self, row: &mut OutgoingRow) -> Result<(), String> {
        row.destination = self.topic(row)?;
        let mut wire = Wire { partition: self.partition_of(row)?, ..Wire::default() };
        wire.push("id", row.id.to_string());
        for Placed { field, alias } in &self.headers {
            wire.headers.push((alias.clone(), field.of(row).map(Into::into)));
        }
        push_trace(row, &mut wire);
        if self.tombstones && is_empty(row.payload.as_deref()) {
            row.payload = None;
        } else if !self.envelope.is_empty() {
            row.payload = Some(self.enveloped(row)?.into());
        }
        row.wire = Some(Arc::new(wire));
        Ok(())
    }

    fn topic(&self, row: &OutgoingRow) -> Result<Destination, String> {
        let by = self.route_by.name();
        let value = self.route_by.of(row).ok_or_else(|| {
            format!("it has no {by:?}, which route_by asks for; write it, or have the format route by another field")
        })?;
        Destination::topic(self.router.route(&value)).map_err(|error| {
            format!(
                "{by} {value:?} makes no topic: {error}; correct it, or topic_regex and topic_replacement"
            )
        })
    }

    fn partition_of(&self, row: &OutgoingRow) -> Result<Option<i32>, String> {
        let Some(field) = &self.partition else { return Ok(None) };
        let Some(text) = field.of(row) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number >= 0);
        number.map(Some).ok_or_else(|| format!("{} {text:?} is no number of a partition", field.name()))
    }

    fn enveloped(&self, row: &OutgoingRow) -> Result<Vec<u8>, String> {
        let payload = row.payload.as_deref().map(std::str::from_utf8).transpose().map_err(|_| {
            "the payload is not UTF-8, and an envelope holds it as text; place fields as headers instead"
                .to_owned()
        })?;
        let mut object = Object::with_capacity(row.payload_len() + 32 * (self.envelope.len() + 1));
        object.text("payload", payload);
        for Placed { field, alias } in &self.envelope {
            object.text(alias, field.of(row).as_deref());
        }
        Ok(object.end())
    }
}

/// What Debezium takes for an empty payload: nothing but blanks and control characters.
fn is_empty(payload: Option<&[u8]>) -> bool {
    payload.is_none_or(|bytes| bytes.iter().all(|byte| *byte <= b' '))
}

/// `FIELD:PLACEMENT[:ALIAS]`
fn placed(text: &str) -> Result<(Placed, &str), String> {
    let mut parts = text.split(':').map(str::trim);
    let (field, placement, alias) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let alias = alias.unwrap_or(field);
    if field.is_empty() || alias.is_empty() || parts.next().is_some() {
        return Err(format!("{text:?} is no FIELD:PLACEMENT or FIELD:PLACEMENT:ALIAS"));
    }
    match placement {
        Some(placement @ ("header" | "envelope" | "partition")) => {
            Ok((Placed { field: Field::named(field), alias: alias.to_owned() }, placement))
        }
        _ => Err(format!("{text:?} needs a placement: header, envelope or partition")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::row;

    const ID: &str = "4d47e190-0402-4048-bc2c-89dd54343cdc";

    fn made(settings: impl FnOnce(&mut Settings)) -> Debezium {
        let mut all = Settings::default();
        settings(&mut all);
        Debezium::new(&all).unwrap()
    }

    fn headers(row: &OutgoingRow) -> Vec<(&str, Option<&str>)> {
        let wire = row.wire.as_ref().unwrap();
        wire.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
    }

    #[test]
    fn by_default_only_the_id_is_beside_the_payload() {
        let mut row = row(Some("{\"a\": 1}"), &[("content-type", "application/json")]);
        made(|_| {}).apply(&mut row).unwrap();
        assert_eq!(row.destination.name(), "outbox.event.order");
        assert_eq!(
            (row.payload.as_deref(), row.aggregateid.as_deref()),
            (Some(&b"{\"a\": 1}"[..]), Some("1"))
        );
        assert_eq!(headers(&row), [("id", Some(ID))]);
        assert_eq!(row.wire.as_ref().unwrap().partition, None);
    }

    #[test]
    fn fields_are_placed() {
        let placed = made(|all| {
            all.additional =
                "type:header:eventType, tenant:envelope,missing:header , id:envelope:eventId,part:partition,missing:envelope"
                    .to_owned();
        });
        let mut row = row(Some("x"), &[("tenant", "blue"), ("part", "3")]);
        row.tracingspancontext = Some("00-a-b-01".to_owned());
        placed.apply(&mut row).unwrap();
        let all = [
            ("id", Some(ID)),
            ("eventType", Some("OrderCreated")),
            ("missing", None),
            ("traceparent", Some("00-a-b-01")),
        ];
        assert_eq!(headers(&row), all);
        assert_eq!(row.wire.as_ref().unwrap().partition, Some(3));
        let value = format!(r#"{{"payload":"x","tenant":"blue","eventId":"{ID}","missing":null}}"#);
        assert_eq!(row.payload.as_deref(), Some(value.as_bytes()));
    }

    #[test]
    fn an_empty_payload_is_a_tombstone_where_that_is_asked_for() {
        for (asked, payload, sent) in [
            (false, Some(""), Some("")),
            (false, None, None),
            (true, Some(""), None),
            (true, Some(" \n"), None),
            (true, None, None),
            (true, Some("{}"), Some("{}")),
        ] {
            let mut row = row(payload, &[]);
            made(|all| all.tombstone_on_empty_payload = asked).apply(&mut row).unwrap();
            assert_eq!(row.payload.as_deref(), sent.map(str::as_bytes), "{asked} {payload:?}");
        }
        let mut empty = row(None, &[]);
        made(|all| all.additional = "type:envelope".to_owned()).apply(&mut empty).unwrap();
        assert_eq!(empty.payload.as_deref(), Some(&br#"{"payload":null,"type":"OrderCreated"}"#[..]));
    }

    #[test]
    fn what_cannot_be_formatted_says_why() {
        let check = |settings: fn(&mut Settings), spoil: fn(&mut OutgoingRow), says: &str| {
            let mut row = row(Some("x"), &[("part", "-1")]);
            spoil(&mut row);
            let why = made(settings).apply(&mut row).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        check(|_| {}, |row| row.aggregatetype = "a b".to_owned(), "aggregatetype \"a b\" makes no topic");
        check(|all| all.route_by = "tenant".to_owned(), |_| {}, "has no \"tenant\"");
        check(|all| all.additional = "part:partition".to_owned(), |_| {}, "part \"-1\" is no number");
        check(
            |all| all.additional = "type:envelope".to_owned(),
            |row| row.payload = Some(vec![0xff].into()),
            "not UTF-8",
        );
    }

    #[test]
    fn settings_that_cannot_be_used_are_all_reported() {
        let settings = Settings {
            route_by: String::new(),
            topic_regex: "(".to_owned(),
            additional: "a,b:body,c:header:d:e,f:partition,g:partition".to_owned(),
            ..Settings::default()
        };
        let problems = Debezium::new(&settings).unwrap_err();
        let found: Vec<_> = problems.iter().map(|problem| problem.key).collect();
        assert_eq!(
            found,
            ["topic_regex", "route_by", "additional", "additional", "additional", "additional"]
        );
    }
}
