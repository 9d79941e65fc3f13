//! A table in Debezium's layout goes in, and what comes out of Kafka is what Debezium's outbox event router documents: topic, key,
//! value bytes and headers, for each option that `relay/README.md` claims.
//!
//! The documentation that the expected values are from is Debezium's page "Outbox Event Router" (with Kafka Connect's
//! `StringConverter` for keys and values, `BinaryDataConverter` for `bytea`, `JsonConverter` without schemas for envelopes, and
//! `SimpleHeaderConverter`, Connect's default, for headers).

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "formats/kafka.rs"]
mod kafka;
#[path = "formats/stage.rs"]
mod stage;

use barid_tests::names;

use self::{
    kafka::{Record, records, sink},
    stage::Stage,
};

/// The table of Debezium's documentation, and what Barid asks for.
const TABLE: &str = "CREATE TABLE outboxevent (id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
    aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb); \
    ALTER TABLE outboxevent ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE;";

const ID: &str = "406c07f3-26f0-4eea-a50c-109940064b8f";

/// The order of the documentation's example.
const ORDER: &str = r#"{"id": 1, "lineItems": [{"id": 1, "item": "Debezium in Action", "status": "ENTERED", "quantity": 2}]}"#;

/// An aggregate that nobody else has, and the topic that Debezium derives from it, which exists.
async fn aggregate(what: &str, partitions: i32) -> (String, String) {
    let aggregate = names::unique(what);
    let topic = format!("outbox.event.{aggregate}");
    names::kafka_topic_called(&topic, partitions).await;
    (aggregate, topic)
}

fn route(format: &str) -> String {
    format!(
        "{}\n[format.events]\nkind = \"debezium\"\n{format}\n\n[[route]]\ndestination = \"*\"\nsink = \"log\"\n\
         format = \"events\"\n",
        sink()
    )
}

fn insert(aggregate: &str, columns: &str, values: &str) -> String {
    format!(
        "INSERT INTO outboxevent (id, aggregatetype, aggregateid, type{columns}) \
         VALUES ('{ID}', '{aggregate}', '1', 'OrderCreated'{values});"
    )
}

fn record(value: Option<&str>, headers: &[(&str, Option<&str>)]) -> Record {
    let header = |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
    let id = ("id".to_owned(), Some(ID.to_owned()));
    Record {
        partition: 0,
        key: Some("1".to_owned()),
        value: value.map(|text| text.as_bytes().to_vec()),
        headers: std::iter::once(id).chain(headers.iter().map(header)).collect(),
    }
}

#[tokio::test]
async fn by_default_topic_key_value_and_header_are_the_documented_ones() {
    let (aggregate, topic) = aggregate("order", 1).await;
    let rows = insert(&aggregate, ", payload", &format!(", '{ORDER}'"));
    let stage = Stage::new(&format!("{TABLE}{rows}")).await;
    // jsonb has a form of its own, which is what Debezium reads.
    let as_stored = stage.text("SELECT payload::text FROM outboxevent").await;
    stage.drain("outboxevent", "preset = \"debezium\"", &route("")).await;
    assert_eq!(records(&topic).await, [record(Some(&as_stored), &[])]);
    assert_eq!(stage.parked().await, Vec::<String>::new());
    stage.database.drop_now().await;
}

#[tokio::test]
async fn the_columns_may_have_other_names() {
    let (aggregate, topic) = aggregate("renamed", 1).await;
    let stage = Stage::new(&format!(
        "CREATE TABLE events (position bigserial PRIMARY KEY, event_id uuid NOT NULL, kind text NOT NULL, order_no integer NOT NULL, \
         type text NOT NULL, body text, written timestamp NOT NULL DEFAULT now()); \
         INSERT INTO events (event_id, kind, order_no, type, body) VALUES ('{ID}', '{aggregate}', 1, 't', ' a\tb ');"
    ))
    .await;
    let keys = "table = \"events\"\npreset = \"debezium\"\ncolumns = { seq = \"position\", id = \"event_id\", \
                aggregatetype = \"kind\", aggregateid = \"order_no\", payload = \"body\", created_at = \"written\" }";
    for (command, says) in
        [(["status", "--output=json"], "\"pending\":1"), (["doctor", "--all"], "has what an outbox needs")]
    {
        let (code, said) = stage.run(&command, keys, &route("")).await;
        assert!(
            code == 0 && said.replace(": ", ":").contains(says),
            "{command:?} ended with {code}:\n{said}"
        );
    }
    stage.drain("events", keys, &route("")).await;
    assert_eq!(records(&topic).await, [record(Some(" a\tb "), &[])]);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn bytes_travel_as_they_are() {
    let (aggregate, topic) = aggregate("avro", 1).await;
    let table = TABLE.replace("jsonb", "bytea");
    let rows = insert(&aggregate, ", payload", ", '\\x00ff10'");
    let stage = Stage::new(&format!("{table}{rows}")).await;
    stage.drain("outboxevent", "preset = \"debezium\"", &route("")).await;
    let expected = Record { value: Some(vec![0, 0xff, 0x10]), ..record(None, &[]) };
    assert_eq!(records(&topic).await, [expected]);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn the_topic_is_routed_by_a_field_a_regex_and_a_replacement() {
    let name = names::unique("routed");
    let topic = format!("{name}.eu.events");
    for topic in [&topic, &name] {
        names::kafka_topic_called(topic, 1).await;
    }
    // The second value does not match as a whole, so it is the topic itself.
    let rows = insert("any", ", region", &format!(", 'eu/{name}'"))
        + &insert("any", ", region", &format!(", '{name}'"))
            .replace(ID, "406c07f3-26f0-4eea-a50c-109940064b90");
    let stage = Stage::new(&format!("{TABLE} ALTER TABLE outboxevent ADD COLUMN region text; {rows}")).await;
    let format = "route_by = \"region\"\ntopic_regex = '(?<region>\\w+)/(.*)'\ntopic_replacement = '$2.${region}.events'";
    stage.drain("outboxevent", "preset = \"debezium\"\nextra_columns = \"region\"", &route(format)).await;
    assert_eq!(records(&topic).await, [record(None, &[])]);
    assert_eq!(records(&name).await.len(), 1);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn an_empty_payload_is_a_tombstone_when_that_is_asked_for() {
    for (asked, expected) in
        [(false, [None, Some(""), Some("  "), Some("x")]), (true, [None, None, None, Some("x")])]
    {
        let (aggregate, topic) = aggregate("tombstone", 1).await;
        let row = |at: usize, payload: &str| {
            let id = format!("406c07f3-26f0-4eea-a50c-10994006400{at}");
            insert(&aggregate, ", payload", &format!(", {payload}")).replace(ID, &id)
        };
        let rows: String =
            ["NULL", "''", "'  '", "'x'"].iter().enumerate().map(|(at, payload)| row(at, payload)).collect();
        let stage = Stage::new(&format!("{}{rows}", TABLE.replace("jsonb", "text"))).await;
        let format = format!("tombstone_on_empty_payload = {asked}");
        stage.drain("outboxevent", "preset = \"debezium\"", &route(&format)).await;
        let values: Vec<_> = records(&topic).await.into_iter().map(|record| record.value).collect();
        assert_eq!(
            values,
            expected.map(|value| value.map(|text| text.as_bytes().to_vec())),
            "asked: {asked}"
        );
        stage.database.drop_now().await;
    }
}

const EXTRA: &str = "ALTER TABLE outboxevent ADD COLUMN tenant text, ADD COLUMN version integer NOT NULL DEFAULT 0, \
    ADD COLUMN urgent boolean, ADD COLUMN part integer;";

const EXTRA_KEYS: &str = "preset = \"debezium\"\nextra_columns = \"tenant, version, urgent, part\"";

#[tokio::test]
async fn additional_fields_are_headers() {
    let (aggregate, topic) = aggregate("headers", 1).await;
    let rows = insert(&aggregate, ", payload, version, urgent", ", '{}', 7, true");
    let stage = Stage::new(&format!("{TABLE}{EXTRA}{rows}")).await;
    let format =
        "additional = \"type:header:eventType,version:header,urgent:header,tenant:header,id:header\"";
    stage.drain("outboxevent", EXTRA_KEYS, &route(format)).await;
    let headers = [
        ("eventType", Some("OrderCreated")),
        ("version", Some("7")),
        ("urgent", Some("true")),
        ("tenant", None),
        ("id", Some(ID)),
    ];
    assert_eq!(records(&topic).await, [record(Some("{}"), &headers)]);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn additional_fields_are_in_an_envelope_around_the_payload() {
    let (aggregate, topic) = aggregate("envelope", 1).await;
    let rows = insert(&aggregate, ", payload, tenant", ", '{\"a\": \"ü\"}', E'b\\n\"lue'");
    let stage = Stage::new(&format!("{TABLE}{EXTRA}{rows}")).await;
    let format =
        "additional = \"type:envelope:eventType,tenant:envelope,urgent:envelope,aggregateid:header:order\"";
    stage.drain("outboxevent", EXTRA_KEYS, &route(format)).await;
    let value =
        r#"{"payload":"{\"a\": \"ü\"}","eventType":"OrderCreated","tenant":"b\n\"lue","urgent":null}"#;
    assert_eq!(records(&topic).await, [record(Some(value), &[("order", Some("1"))])]);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn an_additional_field_is_the_partition() {
    let (aggregate, topic) = aggregate("partition", 3).await;
    let row = |at: i32| {
        insert(&aggregate, ", payload, part", &format!(", '{at}', {at}"))
            .replace(ID, &format!("406c07f3-26f0-4eea-a50c-10994006400{at}"))
    };
    let rows: String = (0..3).map(row).collect();
    let stage = Stage::new(&format!("{TABLE}{EXTRA}{rows}")).await;
    stage.drain("outboxevent", EXTRA_KEYS, &route("additional = \"part:partition\"")).await;
    let found: Vec<_> =
        records(&topic).await.into_iter().map(|record| (record.partition, record.value.unwrap())).collect();
    assert_eq!(found, [(0, b"0".to_vec()), (1, b"1".to_vec()), (2, b"2".to_vec())]);
    stage.database.drop_now().await;
}

#[tokio::test]
async fn the_context_of_a_trace_travels_as_headers() {
    let (aggregate, topic) = aggregate("traced", 1).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let properties = format!("E'#Tue Nov 24\\ntraceparent={parent}\\ntracestate=a\\\\=1\\n'");
    let rows = insert(&aggregate, ", tracingspancontext", &format!(", {properties}"));
    let column = "ALTER TABLE outboxevent ADD COLUMN tracingspancontext varchar(256);";
    let stage = Stage::new(&format!("{TABLE}{column}{rows}")).await;
    stage.drain("outboxevent", "preset = \"debezium\"", &route("")).await;
    let headers = [("traceparent", Some(parent)), ("tracestate", Some("a=1"))];
    assert_eq!(records(&topic).await, [record(None, &headers)]);
    stage.database.drop_now().await;
}

/// A row that cannot be formatted is parked and stops nobody else; released, it is in the table again as it was, and leaves.
#[tokio::test]
async fn what_cannot_be_formatted_is_parked_and_comes_back_as_it_was() {
    let (aggregate, topic) = aggregate("poison", 1).await;
    let second = "406c07f3-26f0-4eea-a50c-109940064b90";
    let rows = insert(&aggregate, ", payload, tenant, version, part", ", '{\"a\": 1}', 'blue', 7, -1")
        + &insert(&aggregate, ", payload, part", ", '2', 0").replace(ID, second).replace("'1'", "'2'");
    // What is put back is noted.
    let audit = "CREATE TABLE audit (was jsonb, at text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO audit VALUES (to_jsonb(NEW), TG_WHEN); RETURN NEW; END $$; \
        CREATE TRIGGER noted AFTER INSERT ON outboxevent FOR EACH ROW EXECUTE FUNCTION note();";
    let stage = Stage::new(&format!("{TABLE}{EXTRA}{rows}{audit}")).await;
    let was = stage.text(&format!("SELECT to_jsonb(o)::text FROM outboxevent o WHERE id = '{ID}'")).await;
    stage.drain("outboxevent", EXTRA_KEYS, &route("additional = \"part:partition\"")).await;
    assert_eq!(stage.parked().await, ["part \"-1\" is no number of a partition"]);
    let sent: Vec<_> = records(&topic).await.into_iter().map(|record| record.key.unwrap()).collect();
    assert_eq!(sent, ["2"]);

    let retry = ["parked", "retry", "--source", "orders", "--all", "--reason", "another format"];
    let (code, said) = stage.run(&retry, EXTRA_KEYS, &route("")).await;
    assert_eq!(code, 0, "{said}");
    stage.drain("relay_parked", EXTRA_KEYS, &route("")).await;
    stage.drain("outboxevent", EXTRA_KEYS, &route("")).await;
    assert_eq!(stage.text("SELECT was::text FROM audit").await, was);
    assert!(records(&topic).await.contains(&record(Some("{\"a\": 1}"), &[])));
    stage.database.drop_now().await;
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_refused_with_everything_that_is_wrong() {
    let table = "CREATE TABLE outboxevent (id text PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text, \
        type text NOT NULL, payload jsonb, shard integer NOT NULL);";
    let stage = Stage::new(table).await;
    let keys =
        "preset = \"debezium\"\nextra_columns = \"tenant\"\n[source.orders.columns]\npayload = \"body\"";
    let file = stage.configure(keys, &route(""));
    let file = file.display();
    let says = [
        format!("{file}:3: preset: table outboxevent has no column seq"),
        "ADD COLUMN seq bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE".to_owned(),
        format!("{file}:3: preset: id needs a NOT NULL uuid, and outboxevent.id is text NOT NULL"),
        format!("{file}:6: columns.payload names column body, which table outboxevent has not"),
        format!("{file}:4: extra_columns names column tenant, which table outboxevent has not"),
        "column shard is NOT NULL without a default".to_owned(),
    ];
    for command in ["check", "run", "doctor"] {
        let (code, said) = stage.run(&[command], keys, &route("")).await;
        assert_ne!(code, 0, "{command}: {said}");
        // The doctor's table breaks no lines, but has columns of its own.
        for says in &says {
            assert!(said.contains(says.as_str()), "{command}:\n{said}\n  lacks\n{says}");
        }
    }
    stage.database.drop_now().await;
}
