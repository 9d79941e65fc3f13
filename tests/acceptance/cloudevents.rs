//! Rows as CloudEvents 1.0, binary and structured, on Kafka and RabbitMQ: what a consumer finds is what the specification and its
//! protocol bindings for Kafka and AMQP say, to the byte.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "formats/kafka.rs"]
mod kafka;
#[path = "formats/stage.rs"]
mod stage;

use barid_tests::{names, servers};
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueDeleteOptions},
    types::AMQPValue,
};

use self::{
    kafka::{Record, records, sink},
    stage::Stage,
};

const ID: &str = "01919000-0000-7000-8000-000000000001";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
const SENT_AT: &str = "2026-11-21T01:02:03.400Z";

/// A row as the framework writes it, with a header that is an attribute and one that cannot be.
fn row(destination: &str, payload: &str, content_type: &str) -> String {
    format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext) VALUES \
         ('{ID}', '{destination}', 'orders', 'o-1', 'orders.placed', {payload}, \
         '{{\"content-type\": \"{content_type}\", \"barid-sent-at\": \"{SENT_AT}\", \"barid-correlation-id\": \"c-1\", \
         \"tenant\": \"blue\", \"x-trial\": \"1\", \"tracestate\": \"a=1\"}}', '{PARENT}');"
    )
}

fn route(sink: &str, format: &str) -> String {
    let name = if sink.contains("kafka") { "log" } else { "rabbit" };
    format!(
        "{sink}\n[format.events]\nkind = \"cloudevents\"\n{format}\n\n\
         [[route]]\ndestination = \"*\"\nsink = \"{name}\"\nformat = \"events\"\n"
    )
}

/// The attributes of that row, and what travels beside them.
fn attributes() -> [(&'static str, &'static str); 11] {
    [
        ("specversion", "1.0"),
        ("id", ID),
        ("source", "/orders"),
        ("type", "orders.placed"),
        ("subject", "o-1"),
        ("partitionkey", "o-1"),
        ("correlationid", "c-1"),
        ("time", SENT_AT),
        ("tenant", "blue"),
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
    ]
}

fn beside() -> [(&'static str, &'static str); 3] {
    [("traceparent", PARENT), ("tracestate", "a=1"), ("x-trial", "1")]
}

/// Sorted, because the order of attributes means nothing.
fn binary(prefix: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = attributes().into_iter().map(|(name, value)| (format!("{prefix}{name}"), value.to_owned()));
    let rest = beside().into_iter().chain(more.iter().copied());
    let mut all: Vec<_> = own.chain(rest.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect();
    all.sort();
    all
}

fn plain(record: &Record) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        record.headers.iter().map(|(name, value)| (name.clone(), value.clone().unwrap())).collect();
    all.sort();
    all
}

/// The event as JSON, without its data.
fn expected(content_type: &str) -> serde_json::Value {
    let mut event: serde_json::Map<_, _> =
        attributes().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    event.insert("datacontenttype".to_owned(), content_type.into());
    event.into()
}

#[tokio::test]
async fn binary_on_kafka() {
    let topic = names::kafka_topic("ce-binary", 1).await;
    let stage = Stage::new(&row(&format!("topic:{topic}"), "'\\x00ff'", "application/avro")).await;
    stage.drain("outbox", "", &route(&sink(), "")).await;
    let records = records(&topic).await;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].key.as_deref(), records[0].value.as_deref()), (Some("o-1"), Some(&[0, 0xff][..])));
    assert_eq!(plain(&records[0]), binary("ce_", &[("content-type", "application/avro")]));
    stage.database.drop_now().await;
}

#[tokio::test]
async fn structured_on_kafka() {
    let topic = names::kafka_topic("ce-structured", 1).await;
    let destination = format!("topic:{topic}");
    let rows = row(&destination, "'{\"a\": [1.0]}'", "application/json")
        + &row(&destination, "'\\x00ff'", "application/avro")
            .replace("'o-1'", "'o-2'")
            .replace("000001'", "000002'");
    let stage = Stage::new(&rows).await;
    stage.drain("outbox", "", &route(&sink(), "mode = \"structured\"")).await;
    let records = records(&topic).await;
    assert_eq!(records.len(), 2);
    for record in &records {
        let value = record.value.as_deref().unwrap();
        let mut event: serde_json::Value = serde_json::from_slice(value).unwrap();
        let all = event.as_object_mut().unwrap();
        let mut headers = beside().map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.insert(0, ("content-type".to_owned(), STRUCTURED.to_owned()));
        assert_eq!(plain(record), headers);
        if record.key.as_deref() == Some("o-1") {
            // The payload is in it byte for byte.
            assert!(value.ends_with(b",\"data\":{\"a\": [1.0]}}"), "{}", String::from_utf8_lossy(value));
            assert_eq!(all.remove("data"), Some(serde_json::json!({"a": [1.0]})));
            assert_eq!(event, expected("application/json"));
        } else {
            assert_eq!(all.remove("data_base64"), Some("AP8=".into()));
            assert_eq!(all["subject"], "o-2");
        }
    }
    stage.database.drop_now().await;
}

/// A message as RabbitMQ has it.
struct Message {
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn rabbit() -> String {
    format!("[sink.rabbit]\nkind = \"rabbitmq\"\nurl = {:?}\ntopology = \"declare\"\n", servers::amqp())
}

/// The only message in a queue, which is deleted.
async fn only_message(queue: &str) -> Message {
    let connection = Connection::connect(&servers::amqp(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
    assert_eq!(got.message_count, 0);
    let properties = &got.delivery.properties;
    // A quorum queue adds how often it has delivered the message.
    let sent = properties.headers().iter().flat_map(|table| table.inner());
    let mut headers: Vec<_> =
        sent.filter(|(name, _)| name.as_str() != "x-delivery-count").map(text).collect();
    headers.sort();
    let content_type = properties.content_type().as_ref().map(ToString::to_string);
    let body = got.delivery.data.clone();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    connection.close(200, "".into()).await.unwrap();
    Message { content_type, headers, body }
}

fn text((name, value): (&lapin::types::ShortString, &AMQPValue)) -> (String, String) {
    let AMQPValue::LongString(value) = value else { panic!("header {name} is no text: {value:?}") };
    (name.to_string(), value.to_string())
}

/// A route has to name the queue for it to be declared.
fn to(queue: &str, format: &str) -> String {
    route(&rabbit(), format).replace("destination = \"*\"", &format!("destination = \"queue:{queue}\""))
}

#[tokio::test]
async fn binary_on_rabbitmq() {
    let queue = names::unique("ce-binary");
    let stage = Stage::new(&row(&format!("queue:{queue}"), "'\\x00ff'", "application/avro")).await;
    stage.drain("outbox", "", &to(&queue, "event_source = \"/orders\"")).await;
    let message = only_message(&queue).await;
    assert_eq!(message.content_type.as_deref(), Some("application/avro"));
    assert_eq!((message.body, message.headers), (vec![0, 0xff], binary("cloudEvents_", &[])));
    stage.database.drop_now().await;
}

#[tokio::test]
async fn structured_on_rabbitmq() {
    let queue = names::unique("ce-structured");
    let stage = Stage::new(&row(&format!("queue:{queue}"), "'two\nlines'", "text/plain")).await;
    stage.drain("outbox", "", &to(&queue, "mode = \"structured\"")).await;
    let message = only_message(&queue).await;
    assert_eq!(message.content_type.as_deref(), Some(STRUCTURED));
    assert_eq!(message.headers, beside().map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut event: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!(event.as_object_mut().unwrap().remove("data"), Some("two\nlines".into()));
    assert_eq!(event, expected("text/plain"));
    stage.database.drop_now().await;
}

#[tokio::test]
async fn what_makes_no_event_is_parked_and_holds_up_no_other_key() {
    let topic = names::kafka_topic("ce-poison", 1).await;
    let destination = format!("topic:{topic}");
    let rows = row(&destination, "'{'", "application/json")
        + &row(&destination, "'{}'", "application/json")
            .replace("'o-1'", "'o-2'")
            .replace("000001'", "000002'");
    let stage = Stage::new(&rows).await;
    stage.drain("outbox", "", &route(&sink(), "mode = \"structured\"")).await;
    let parked = stage.parked().await;
    assert!(parked.len() == 1 && parked[0].starts_with("the payload is no JSON"), "{parked:?}");
    let sent: Vec<_> = records(&topic).await.into_iter().map(|record| record.key).collect();
    assert_eq!(sent, [Some("o-2".to_owned())]);
    stage.database.drop_now().await;
}
