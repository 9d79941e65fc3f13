//! Rows to AMQP messages and back. Pure: no I/O, no clock but the row's own stamp.
//!
//! Everything that the broker would close a channel over is refused here: names that are too long, headers that do not
//! fit a frame, bodies above the limit.

use std::{fmt::Write as _, time::Duration};

use chrono::DateTime;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::{
    Destination, Headers, clock, headers,
    transport::{OutgoingRow, Repeat},
};

/// Bytes of the header frame that names, values and properties may take. Frames have at most 128 KiB by default, and a
/// message's headers must fit into one.
const HEADERS_BYTES_MAX: usize = 100 * 1024;

/// Headers by which RabbitMQ routes copies of a message to other queues, past everything that was configured. It closes the
/// channel over one that is no array, and with it the neighbours of the message.
const COPYING: [&str; 2] = ["CC", "BCC"];

/// Delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Where a message goes and what travels beside its body.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
}

/// A row as AMQP message, or why it never can be one.
pub(super) fn encode(row: &OutgoingRow, body_bytes_max: usize) -> Result<Message, String> {
    let size = row.payload_len();
    if size > body_bytes_max {
        return Err(format!("the body has {size} bytes and at most {body_bytes_max} are sent"));
    }
    let name = short("type", &row.name)?;
    let (exchange, routing_key) = match &row.destination {
        Destination::Queue(queue) => (ShortString::default(), short("queue", queue)?),
        Destination::Topic(topic) => (short("topic", topic)?, name.clone()),
    };
    // Without the map that `wire_headers` makes: it was a third of what encoding cost.
    let (mut table, mut bytes, mut refused) = (FieldTable::default(), 0, None);
    row.each_wire_header(|name, value| {
        if COPYING.contains(&name) {
            refused = Some(format!(
                "a header may not be called {name:?}: RabbitMQ would route copies of the message by it"
            ));
        }
        bytes += name.len() + value.len() + 6;
        match short("header name", name) {
            Ok(name) => {
                table.insert(name, AMQPValue::LongString(LongString::from(value)));
            }
            Err(why) => refused = Some(why),
        }
    });
    if let Some(why) = refused {
        return Err(why);
    }
    if bytes > HEADERS_BYTES_MAX {
        return Err(format!("the headers have {bytes} bytes and at most {HEADERS_BYTES_MAX} fit a frame"));
    }
    let mut properties = BasicProperties::default()
        .with_message_id(short("message id", &row.id.to_string())?)
        .with_type(name)
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(timestamp(&row.headers))
        .with_headers(table);
    let content_type = match &row.wire {
        None => row.headers.get(headers::CONTENT_TYPE),
        Some(wire) => wire.content_type.as_deref(),
    };
    if let Some(content_type) = content_type {
        properties = properties.with_content_type(short("content type", content_type)?);
    }
    Ok(Message { exchange, routing_key, properties })
}

/// The headers of a received message. Tables and arrays (`x-death`) are left out: a header is text.
pub(super) fn decode(properties: &BasicProperties) -> Headers {
    let mut all = Headers::new();
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        if let Some(text) = text(value) {
            all.set(name.as_str(), text);
        }
    }
    let fallbacks = [
        (headers::ID, properties.message_id()),
        (headers::TYPE, properties.kind()),
        (headers::CONTENT_TYPE, properties.content_type()),
        (headers::CORRELATION_ID, properties.correlation_id()),
    ];
    for (name, property) in fallbacks {
        if let Some(value) = property.as_ref().filter(|value| !value.as_str().is_empty()) {
            all.set_default(name, || value.to_string());
        }
    }
    all
}

/// What the broker adds to a message that it moves, and must not count twice when it moves it again.
const DEATH: &str = "x-death";

/// `redelivered` is exact in this direction: false means that nobody was handed this message before, unless it has waited
/// between two attempts, which the broker writes on it.
pub(super) fn repeat(redelivered: bool, properties: &BasicProperties) -> Repeat {
    let moved = properties.headers().as_ref().is_some_and(|table| table.inner().contains_key(DEATH));
    if redelivered || moved { Repeat::Possible } else { Repeat::First }
}

/// The properties of a message while it waits: its own, with the wait as expiration. Without what the broker wrote about its
/// last wait, and without `user-id`, which only the user who sent it may set.
pub(super) fn waiting(properties: &BasicProperties, wait: Duration) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let of_the_broker = ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count"];
        if !of_the_broker.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            table.insert(name.clone(), value.clone());
        }
    }
    let mut all = BasicProperties::default()
        .with_headers(table)
        .with_delivery_mode(PERSISTENT)
        .with_expiration(wait.as_millis().to_string().into());
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, Set); 7] = [
        (properties.content_type(), BasicProperties::with_content_type),
        (properties.content_encoding(), BasicProperties::with_content_encoding),
        (properties.correlation_id(), BasicProperties::with_correlation_id),
        (properties.reply_to(), BasicProperties::with_reply_to),
        (properties.message_id(), BasicProperties::with_message_id),
        (properties.kind(), BasicProperties::with_type),
        (properties.app_id(), BasicProperties::with_app_id),
    ];
    for (value, set) in texts {
        if let Some(value) = value {
            all = set(all, value.clone());
        }
    }
    if let Some(priority) = properties.priority() {
        all = all.with_priority(*priority);
    }
    match properties.timestamp() {
        Some(timestamp) => all.with_timestamp(*timestamp),
        None => all,
    }
}

/// Which channel the rows of a key use: FNV-1a, the same in every process and version.
pub(super) fn shard(aggregatetype: &str, aggregateid: &str, shards: usize) -> usize {
    let bytes = aggregatetype.bytes().chain([0]).chain(aggregateid.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV's low bits are weak for short keys; the high half is folded in.
    ((hash ^ (hash >> 32)) as usize) % shards
}

fn short(what: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text)
        .map_err(|_| format!("{what} {:.40}... has {} bytes and at most 255 travel", text, text.len()))
}

/// Seconds since 1970 at which the application made the message; now, when it does not say.
fn timestamp(all: &Headers) -> u64 {
    let sent = all.get(headers::SENT_AT).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let seconds = sent.map_or_else(|| clock::now().timestamp(), |at| at.timestamp());
    u64::try_from(seconds).unwrap_or(0)
}

fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::Boolean(it) => it.to_string(),
        AMQPValue::ShortShortInt(it) => it.to_string(),
        AMQPValue::ShortShortUInt(it) => it.to_string(),
        AMQPValue::ShortInt(it) => it.to_string(),
        AMQPValue::ShortUInt(it) => it.to_string(),
        AMQPValue::LongInt(it) => it.to_string(),
        AMQPValue::LongUInt(it) => it.to_string(),
        AMQPValue::LongLongInt(it) => it.to_string(),
        AMQPValue::Float(it) => it.to_string(),
        AMQPValue::Double(it) => it.to_string(),
        AMQPValue::DecimalValue(it) => decimal(it.value, it.scale),
        AMQPValue::ShortString(it) => it.to_string(),
        AMQPValue::LongString(it) => it.to_string(),
        AMQPValue::Timestamp(it) => it.to_string(),
        AMQPValue::ByteArray(it) => match std::str::from_utf8(it.as_slice()) {
            Ok(text) => text.to_owned(),
            Err(_) => hex::encode(it.as_slice()),
        },
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::Void => return None,
    })
}

fn decimal(value: u32, scale: u8) -> String {
    let mut digits = format!("{value:0width$}", width = usize::from(scale) + 1);
    if scale > 0 {
        digits.insert(digits.len() - usize::from(scale), '.');
    }
    digits
}

/// Why a message that was returned cannot be delivered.
pub(super) fn returned_text(code: u16, text: &str, exchange: &str, routing_key: &str) -> String {
    let mut why = format!("no queue took it ({code} {text}): ");
    // Writing to a String cannot fail.
    let _ = if exchange.is_empty() {
        write!(why, "queue {routing_key:?} does not exist; declare it or correct the destination")
    } else {
        write!(why, "no queue is bound to exchange {exchange:?} with routing key {routing_key:?}; bind one")
    };
    why
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::types::{ByteArray, DecimalValue};
    use uuid::Uuid;

    use super::*;

    fn row(destination: &str) -> OutgoingRow {
        OutgoingRow {
            seq: 7,
            id: Uuid::from_u128(5),
            destination: destination.parse().unwrap(),
            aggregatetype: "orders".to_owned(),
            aggregateid: Some("o-1".to_owned()),
            name: "orders.placed".to_owned(),
            payload: Some(Bytes::from_static(b"{}")),
            headers: Headers::from_iter([
                (headers::CONTENT_TYPE, "application/json"),
                (headers::SENT_AT, "2026-11-21T01:02:03.400Z"),
                ("mine", "äöü"),
            ]),
            tracingspancontext: Some("00-a-b-01".to_owned()),
            wire: None,
        }
    }

    #[test]
    fn a_row_survives_the_wire() {
        let row = row("topic:orders");
        let message = encode(&row, 10).unwrap();
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("orders", "orders.placed"));
        assert_eq!(*message.properties.delivery_mode(), Some(2));
        assert_eq!(*message.properties.timestamp(), Some(1_795_222_923));
        assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(decode(&message.properties), row.wire_headers());
    }

    #[test]
    fn a_message_that_waited_is_the_same_and_known_as_a_repeat() {
        let sent = encode(&row("queue:shipping"), 10).unwrap().properties.with_user_id("shop".into());
        assert_eq!(repeat(false, &sent), Repeat::First);
        assert_eq!(repeat(true, &sent), Repeat::Possible);
        let mut table = sent.headers().clone().unwrap();
        table.insert("x-death".into(), AMQPValue::FieldArray(lapin::types::FieldArray::default()));
        table.insert("x-first-death-queue".into(), AMQPValue::LongString("q".into()));
        let back = sent.clone().with_headers(table);
        assert_eq!(repeat(false, &back), Repeat::Possible);

        let again = waiting(&back, Duration::from_millis(1_500));
        assert_eq!(decode(&again), decode(&sent));
        assert_eq!(again.expiration().as_ref().unwrap().as_str(), "1500");
        assert_eq!(
            (again.message_id(), again.kind(), again.timestamp()),
            (sent.message_id(), sent.kind(), sent.timestamp())
        );
        assert_eq!((again.user_id(), again.delivery_mode()), (&None, &Some(2)));
    }

    #[test]
    fn a_queue_is_reached_through_the_default_exchange() {
        let message = encode(&row("queue:shipping"), 10).unwrap();
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", "shipping"));
    }

    #[test]
    fn what_would_close_the_channel_is_refused() {
        let long = "x".repeat(256);
        type Spoil = fn(&mut OutgoingRow, String);
        let spoiled: [(&str, Spoil); 4] = [
            ("body", |row, _| row.payload = Some(Bytes::from_static(b"more than 10"))),
            ("type", |row, long| row.name = long),
            ("header name", |row, long| row.headers.set(long, "1")),
            ("headers", |row, _| row.headers.set("big", "x".repeat(HEADERS_BYTES_MAX))),
        ];
        for (what, spoil) in spoiled {
            let mut row = row("queue:a");
            spoil(&mut row, long.clone());
            let why = encode(&row, 10).unwrap_err();
            assert!(why.contains(what), "{what}: {why}");
        }
    }

    #[test]
    fn scalars_become_text_and_properties_fill_gaps() {
        let mut table = FieldTable::default();
        let mut add = |name: &str, value| {
            table.insert(name.into(), value);
        };
        add("bool", AMQPValue::Boolean(true));
        add("int", AMQPValue::LongLongInt(-5));
        add("double", AMQPValue::Double(1.5));
        add("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 5 }));
        add("bytes", AMQPValue::ByteArray(ByteArray::from(&[0xff_u8, 0][..])));
        add("table", AMQPValue::FieldTable(FieldTable::default()));
        add(headers::TYPE, AMQPValue::ShortString("from.header".into()));
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_message_id("m-1".into())
            .with_type("from.property".into());
        let expected = [
            ("bool", "true"),
            ("int", "-5"),
            ("double", "1.5"),
            ("decimal", "0.05"),
            ("bytes", "ff00"),
            (headers::TYPE, "from.header"),
            (headers::ID, "m-1"),
        ];
        assert_eq!(decode(&properties), Headers::from_iter(expected));
    }

    #[test]
    fn shards_are_stable_and_spread() {
        // A change of these numbers reorders keys that are in flight during an upgrade.
        assert_eq!(shard("orders", "1", 4), shard("orders", "1", 4));
        let mut counts = [0_usize; 4];
        for key in 0..4_000 {
            counts[shard("orders", &key.to_string(), 4)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        assert_ne!(
            (0..64).map(|i| shard("a", &format!("b{i}"), 8)).collect::<Vec<_>>(),
            (0..64).map(|i| shard("ab", &i.to_string(), 8)).collect::<Vec<_>>(),
        );
    }
}
