//! Which formats a configuration may ask for, and what is said about the others.

use super::{super::read::parse, *};

const GOOD: &str = r#"
[source.main]
url = "sqlite:a"

[sink.log]
kind = "kafka"
brokers = "k1:9092"

[sink.rabbit]
kind = "rabbitmq"
url = "amqp://mq/"

[format.legacy]
kind = "debezium"
additional = "type:header:eventType"
tombstone_on_empty_payload = true

[[route]]
destination = "topic:*"
sink = "log"
format = "legacy"

[[route]]
destination = "queue:*"
sink = "rabbit"
format = "cloudevents"
"#;

fn with(text: &str) -> Result<Config, Vec<String>> {
    parse("relay.toml", text, std::iter::empty()).map_err(|error| error.problems)
}

fn check(text: &str, expected: &[&str]) {
    let problems = with(text).unwrap_err();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}\n  lacks\n{expected}");
    }
}

#[test]
fn a_route_has_the_format_that_it_asks_for() {
    let config = with(GOOD).unwrap();
    let made = |at: usize| config.format(&config.route[at], "main").unwrap();
    assert!(matches!(made(0), Some(Format::Debezium(_))), "{:?}", made(0));
    let amqp = format!("{:?}", made(1));
    assert!(amqp.contains("Amqp") && amqp.contains("\"/main\"") && amqp.contains("Binary"), "{amqp}");
    let shown = config.to_string();
    let section = "[format.legacy]\nkind = \"debezium\"\nroute_by = \"aggregatetype\"\n";
    assert!(shown.contains(section) && shown.contains("format = \"cloudevents\""), "{shown}");
    assert!(shown.contains("tombstone_on_empty_payload = true"), "{shown}");
    let own = with(&GOOD.replace("format = \"cloudevents\"", "format = \"barid\"")).unwrap();
    assert!(own.format(&own.route[1], "main").unwrap().is_none());
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = format!(
        "{GOOD}\n[format.events]\nkind = \"cloudevents\"\nmode = \"structured\"\nevent_source = \"/x\"\n"
    );
    let config = with(&text).unwrap();
    let again = with(&config.to_string().replace("\"***\"", "\"x\"")).unwrap();
    assert_eq!(again.to_string(), config.to_string());
}

#[test]
fn everything_that_is_wrong_with_formats_is_said_at_once() {
    let text = GOOD
        .replace("kind = \"debezium\"\n", "kind = \"debezium\"\ntopic_regex = \"(\"\nmode = \"binary\"\n")
        .replace("type:header:eventType", "type:body")
        .replace("format = \"cloudevents\"", "format = \"legacy\"")
        + "\n[[route]]\ndestination = \"*\"\nsink = \"log\"\nformat = \"protobuf\"\n\
           [format.other]\nkind = \"debezum\"\n[format.third]\nkind = \"cloudevents\"\nmode = \"batch\"\n\
           event_source = \"\"\ncontent_type = \"json\"\n";
    check(
        &text,
        &[
            "relay.toml:16: \"mode\" in [format.legacy] means nothing to kind = \"debezium\"",
            "relay.toml:15: topic_regex in [format.legacy]: \"(\" is no regular expression",
            "relay.toml:17: additional in [format.legacy]: \"type:body\" needs a placement",
            "relay.toml:35: [format.other] kind must be one of debezium, cloudevents, and is \"debezum\"; did you mean \
             \"debezium\"?",
            "relay.toml:38: mode in [format.third] must be \"binary\" or \"structured\", and is \"batch\"",
            "relay.toml:39: event_source in [format.third]",
            "relay.toml:40: content_type in [format.third]",
            "relay.toml:28: [[route]] asks for format \"legacy\" on sink \"rabbit\", and kind = \"rabbitmq\" cannot send",
            "relay.toml:33: [[route]] asks for format \"protobuf\", which does not exist (formats: barid, debezium, \
             cloudevents, legacy, other, third)",
        ],
    );
    check(
        &GOOD.replace("= true", "= \"yes\""),
        &["\"tombstone_on_empty_payload\" in [format.legacy] must be true or false"],
    );
    check(&GOOD.replace("kind = \"debezium\"\n", ""), &["[format.legacy] kind must be one of"]);
    check(&GOOD.replace("format.legacy", "formats.legacy"), &["did you mean \"format\"?"]);
}

#[test]
fn a_switch_can_be_set_by_the_environment() {
    let variable = ("BARID_RELAY__FORMAT__LEGACY__TOMBSTONE_ON_EMPTY_PAYLOAD".to_owned(), "false".to_owned());
    let config = parse("relay.toml", GOOD, [variable].into_iter()).unwrap();
    assert_eq!(config.format["legacy"].tombstone_on_empty_payload, Some(false));
}
