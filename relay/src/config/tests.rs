//! What the configuration accepts, what it refuses, and how it says so.

use super::{read::parse, *};
use crate::sink::Topology;

mod after;

const GOOD: &str = r#"
[source.main]
url = "postgres://shop:s3cret@db/shop"

[sink.rabbit]
kind = "rabbitmq"
url = "amqp://shop:s3cret@mq/"
window_rows_max = 2_000

[sink.log]
kind = "kafka"
brokers = "k1:9092"
[sink.log.properties]
"sasl.password" = "s3cret"

[[route]]
destination = "queue:*"
sink = "rabbit"

[[route]]
destination = "topic:*"
sink = "log"
"#;

fn with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse("relay.toml", text, environment)
}

/// Every problem of `text`, one a line; each must be in `expected`, in that order.
fn check(text: &str, environment: &[(&str, &str)], expected: &[&str]) {
    let problems = with(text, environment).unwrap_err().problems;
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}\n  lacks\n{expected}");
        assert!(!problem.contains("s3cret"), "{problem}");
    }
}

#[test]
fn a_good_file() {
    let config = with(GOOD, &[]).unwrap();
    assert_eq!(config.order(&config.route[0]), Order::Strict);
    assert_eq!(
        config.order(&config.route[1]),
        Order::Pipelined,
        "Kafka's idempotent producer keeps the order"
    );
    assert_eq!(config.sink["rabbit"].window().rows_max, 2_000);
    assert_eq!(config.sink["rabbit"].topology, Topology::Check);
    assert_eq!(
        config.settings(&config.source["main"]).buffer_rows_max,
        11_000,
        "as large as the largest window"
    );
}

#[test]
fn a_route_says_what_becomes_of_poison() {
    let text = GOOD.replace("sink = \"log\"", "sink = \"log\"\non_poison = \"halt\"");
    let config = with(&text, &[("BARID_RELAY__ROUTE__0__ON_POISON", "skip")]).unwrap();
    assert_eq!(
        config.route.iter().map(|route| route.on_poison).collect::<Vec<_>>(),
        [Poison::Skip, Poison::Halt]
    );
    assert!(config.to_string().contains("on_poison = \"halt\""), "{config}");
    let wrong = text.replace("\"halt\"", "\"stop\"");
    check(&wrong, &[], &["relay.toml:23: route.1.on_poison"]);
}

#[test]
fn databases_that_take_part_have_an_address_and_a_plain_name() {
    let text = format!("{GOOD}\n[resource.stock]\nurl = \"mysql://shop:s3cret@db/stock\"\n");
    let config = with(&text, &[("BARID_RELAY__RESOURCE__CASH__URL_FILE", "/run/cash")]).unwrap();
    assert_eq!(config.resource.keys().collect::<Vec<_>>(), ["cash", "stock"]);
    let shown = config.to_string();
    assert!(shown.contains("[resource.stock]\nurl = \"mysql://shop:***@db/stock\""), "{shown}");
    check(
        &text.replace("[resource.stock]", "[resource.\"a b\"]\nurl_file = \"x\""),
        &[],
        &["has both, and must have one of \"url\" and \"url_file\"", "\"a b\" cannot name a resource"],
    );
    check(&text.replace("url = \"mysql", "uri = \"mysql"), &[], &["did you mean \"url\"?"]);
}

#[test]
fn every_unknown_key_is_reported_with_its_line_and_the_nearest_key() {
    let text = GOOD
        .replace("window_rows_max", "window_row_max")
        .replace("[sink.log]", "[relay]\nbufer_rows_max = 1\n[sink.log]\ncolour = \"red\"")
        .replace("url = \"postgres", "ulr = \"postgres");
    check(
        &text,
        &[("BARID_RELAY__SINK__LOG__BROKER", "k")],
        &[
            "relay.toml:3: unknown key \"ulr\" in [source.main]; did you mean \"url\"?",
            "relay.toml:8: unknown key \"window_row_max\" in [sink.rabbit]; did you mean \"window_rows_max\"?",
            "relay.toml:11: unknown key \"bufer_rows_max\" in [relay]; did you mean \"buffer_rows_max\"?",
            "relay.toml:13: unknown key \"colour\" in [sink.log]; known keys: kind, url",
            "BARID_RELAY__SINK__LOG__BROKER: unknown key \"broker\" in [sink.log]; did you mean \"brokers\"?",
        ],
    );
}

#[test]
fn unknown_sections_and_wrong_shapes() {
    check(
        "[sources.main]\nurl = \"x\"\n[route]\nsink = \"a\"\n[relay]\ndrain_ms = \"1\"",
        &[],
        &[
            "relay.toml:1: unknown section \"sources\"; did you mean \"source\"?",
            "relay.toml:3: write [[route]], with two brackets",
            "relay.toml:6: \"drain_ms\" in [relay] must be a whole number",
        ],
    );
}

#[test]
fn what_does_not_belong_together_is_reported_at_once() {
    let text = "[source.a]\nbatch_rows = 0\n[sink.b]\nkind = \"kafka\"\nurl = \"amqp://u:s3cret@h\"\n\
        [[route]]\ndestination = \"orders\"\nsink = \"c\"";
    check(
        text,
        &[],
        &[
            "relay.toml:2: [source.a] needs one of \"url\" and \"url_file\"",
            "relay.toml:2: batch_rows in [source.a] must be at least 1",
            "relay.toml:4: \"url\" in [sink.b] means nothing to kind = \"kafka\"",
            "relay.toml:4: [sink.b] needs brokers",
            "relay.toml:7: destination in [[route]]: \"orders\" matches no destination",
            "relay.toml:8: [[route]] leads to sink \"c\", which does not exist (sinks: b)",
        ],
    );
    check("", &[], &["no [source.NAME]", "no [sink.NAME]", "no [[route]]"]);
}

#[test]
fn a_lease_has_bounds() {
    let text = format!("{GOOD}\n[relay]\nlease_ms = 16000\ninstance = \"blue\"");
    let config = with(&text, &[]).unwrap();
    assert_eq!((config.relay.lease_ms, config.relay.instance.as_str()), (16_000, "blue"));
    let given = |key, value| [(key, value)];
    let says = "lease_ms in [relay] must be between 1000 and 3600000";
    check(GOOD, &given("BARID_RELAY__RELAY__LEASE_MS", "999"), &[says]);
    check(GOOD, &given("BARID_RELAY__RELAY__INSTANCE", ""), &["instance in [relay] must have 1 to 200"]);
}

#[test]
fn a_confirm_is_waited_for_no_longer_than_the_lease_lasts() {
    let waits = |environment: &[(&str, &str)]| {
        let config = with(GOOD, environment).unwrap();
        config.confirm_timeout(&config.sink["rabbit"]).as_millis()
    };
    assert_eq!(waits(&[]), 10_000);
    assert_eq!(waits(&[("BARID_RELAY__RELAY__LEASE_MS", "3000")]), 2_000);
    assert_eq!(waits(&[("BARID_RELAY__SINK__RABBIT__CONFIRM_TIMEOUT_MS", "14999")]), 14_999);
    let too_long = GOOD.replace("window_rows_max = 2_000", "confirm_timeout_ms = 15_000");
    check(
        &too_long,
        &[],
        &["relay.toml:8: confirm_timeout_ms in [sink.rabbit] must be less than lease_ms = 15000"],
    );
}

#[test]
fn what_a_login_needs_is_said() {
    let text =
        GOOD.replace("brokers = ", "security = \"sasl_plaintext\"\nsasl_mechanism = \"PLAIN\"\nbrokers = ");
    check(
        &text,
        &[],
        &["[sink.log] needs \"username\"", "[sink.log] needs one of \"password\" and \"password_file\""],
    );
    let text = GOOD.replace("brokers = ", "username = \"shop\"\nca_file = \"ca.pem\"\nbrokers = ");
    check(
        &text,
        &[("BARID_RELAY__SINK__RABBIT__CLIENT_KEY_FILE", "k.pem")],
        &[
            "\"username\" in [sink.log] needs security = \"sasl_ssl\"",
            "\"ca_file\" in [sink.log] needs security = \"ssl\"",
            "[sink.rabbit] has one of \"client_certificate_file\" and \"client_key_file\"",
        ],
    );
}

#[cfg(not(feature = "kafka-ssl"))]
#[test]
fn a_program_without_openssl_says_so() {
    for security in ["ssl", "sasl_ssl", "sasl_plaintext"] {
        let text = GOOD.replace("brokers = ", &format!("security = {security:?}\nbrokers = "));
        let login =
            [("BARID_RELAY__SINK__LOG__USERNAME", "shop"), ("BARID_RELAY__SINK__LOG__PASSWORD", "s3cret")];
        let login = if security == "ssl" { &[][..] } else { &login[..] };
        check(&text, login, &["[sink.log]: this program was built without"]);
    }
}

#[test]
fn a_word_that_does_not_exist_has_its_line() {
    let text = GOOD.replace("\"rabbitmq\"", "\"rabitmq\"");
    check(
        &text,
        &[],
        &["relay.toml:6: sink.rabbit.kind: unknown variant `rabitmq`, expected one of `rabbitmq`"],
    );
}

#[test]
fn a_syntax_error_shows_its_line_and_not_the_password_in_it() {
    let text = "[source.main]\nurl = \"postgres://u:s3cret@h/d\nbatch_rows = 1";
    check(text, &[], &["relay.toml:2: "]);
}

#[test]
fn the_environment_overrides_the_file() {
    let config = with(
        GOOD,
        &[
            ("BARID_RELAY__SOURCE__MAIN__BATCH_ROWS", "7"),
            ("BARID_RELAY__ROUTE__1__ORDER", "strict"),
            ("BARID_RELAY__SINK__LOG__PROPERTIES__SASL_PASSWORD", "other"),
            ("BARID_RELAY__RELAY__DRAIN_MS", "1"),
            ("UNRELATED", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.source["main"].batch_rows, 7);
    assert_eq!(config.route[1].order, Some(Order::Strict));
    assert_eq!(config.relay.drain_ms, 1);
    use secrecy::ExposeSecret;
    assert_eq!(config.sink["log"].properties["sasl.password"].expose_secret(), "other");
}

#[test]
fn a_wrong_variable_is_named() {
    check(
        GOOD,
        &[("BARID_RELAY__SOURCE__MAIN__BATCH_ROWS", "many"), ("BARID_RELAY__SAUCE", "x")],
        &[
            "BARID_RELAY__SAUCE: unknown",
            "BARID_RELAY__SOURCE__MAIN__BATCH_ROWS: \"batch_rows\" in [source.main] must be a whole number",
        ],
    );
}

#[test]
fn nothing_secret_is_shown() {
    let config = with(GOOD, &[]).unwrap();
    let (shown, debug) = (config.to_string(), format!("{config:?}"));
    assert!(!shown.contains("s3cret") && !debug.contains("s3cret"), "{shown}\n{debug}");
    assert!(
        shown.contains("url = \"postgres://shop:***@db/shop\"") && shown.contains("retry_max_ms = 5000"),
        "{shown}"
    );
}

#[test]
fn what_is_shown_has_every_key() {
    let secure =
        GOOD.replace("brokers = ", "security = \"sasl_plaintext\"\nsasl_mechanism = \"PLAIN\"\nbrokers = ");
    let variables = [
        ("SOURCE__MAIN__DOORBELL", "udp:127.0.0.1:7117"),
        ("SOURCE__MAIN__LISTEN", "outbox"),
        ("SOURCE__MAIN__TABLE", "legacy"),
        ("SOURCE__MAIN__PRESET", "debezium"),
        ("SOURCE__MAIN__COLUMNS__PAYLOAD", "body"),
        ("SOURCE__MAIN__EXTRA_COLUMNS", "tenant"),
        ("SOURCE__MAIN__AFTER", "archive"),
        ("SINK__RABBIT__CHANNELS", "2"),
        ("SINK__RABBIT__WINDOW_ROWS_MIN", "10"),
        ("SINK__RABBIT__BODY_BYTES_MAX", "1000"),
        ("SINK__RABBIT__CONFIRM_TIMEOUT_MS", "5000"),
        ("SINK__RABBIT__HEARTBEAT_S", "10"),
        ("SINK__RABBIT__CA_FILE", "ca.pem"),
        ("SINK__RABBIT__CLIENT_CERTIFICATE_FILE", "c.pem"),
        ("SINK__RABBIT__CLIENT_KEY_FILE", "k.pem"),
        ("SINK__RABBIT__TOPOLOGY", "declare"),
        ("SINK__LOG__USERNAME", "shop"),
        ("SINK__LOG__PASSWORD", "s3cret"),
        ("SINK__LOG__TRANSACTIONAL_ID", "shop-outbox"),
        ("FORMAT__A__KIND", "debezium"),
        ("FORMAT__B__KIND", "cloudevents"),
        ("FORMAT__B__EVENT_SOURCE", "/a"),
        ("ADMIN__TOKEN", "s3cret-s3cret-s3cret"),
    ];
    let variables = variables.map(|(name, value)| (format!("BARID_RELAY__{name}"), value));
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let shown = with(&secure, &variables).unwrap().to_string();
    assert!(!shown.contains("s3cret"), "{shown}");
    for section in keys::SECTIONS {
        for (key, _) in keys::of(section)
            .iter()
            .filter(|(key, _)| !["url_file", "password_file", "token_file"].contains(key))
        {
            assert!(shown.contains(key), "{key} is not in\n{shown}");
        }
    }
}

#[test]
fn what_wakes_a_source() {
    let with_keys = |keys: &str| GOOD.replace("[source.main]", &format!("[source.main]\n{keys}"));
    let keys = "doorbell = \"unix:/run/barid/a.sock\"\nlisten = \"outbox\"\nidle_poll_ms = 70";
    let config = with(&with_keys(keys), &[]).unwrap();
    let source = &config.source["main"];
    assert_eq!(source.doorbell, Some("unix:/run/barid/a.sock".parse().unwrap()));
    assert_eq!(source.options().listen, Some("outbox".parse().unwrap()));
    assert_eq!(config.settings(source).idle_poll, Duration::from_millis(70));
    assert!(
        config.to_string().contains("doorbell = \"unix:/run/barid/a.sock\"\nlisten = \"outbox\""),
        "{config}"
    );
    check(
        &with_keys("doorbell = \"udp:db:7\""),
        &[],
        &["relay.toml:3: source.main.doorbell: \"udp:db:7\" is no doorbell"],
    );
    check(
        &with_keys("listen = \"a\\\"; DROP TABLE outbox\""),
        &[],
        &["relay.toml:3: source.main.listen: \"a"],
    );
    let second = format!("{}[source.second]\nurl = \"sqlite:a\"\n{keys}\n", with_keys(keys));
    check(&second, &[], &["is another source's too", "is another source's too"]);
}

#[test]
fn the_admin_server_is_for_this_machine_unless_there_is_a_token() {
    assert!(with(GOOD, &[]).unwrap().admin.is_none(), "nobody listens unasked");
    let admin = with(&format!("{GOOD}\n[admin]\n"), &[]).unwrap().admin.unwrap();
    assert!(admin.listen == LISTEN && admin.listen.ip().is_loopback() && admin.token.is_none());
    let exposed = format!("{GOOD}\n[admin]\nlisten = \"0.0.0.0:7118\"\n");
    check(
        &exposed,
        &[],
        &["relay.toml:25: [admin] listens at 0.0.0.0:7118, where others can reach it, and has no token"],
    );
    let token = ("BARID_RELAY__ADMIN__TOKEN", "s3cret-s3cret-s3cret");
    let admin = with(&exposed, &[token]).unwrap();
    let shown = admin.to_string();
    assert!(
        shown.contains("[admin]\nlisten = \"0.0.0.0:7118\"\ntoken = \"***\"\nsurvey_ms = 10000\n"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    let listen = ("BARID_RELAY__ADMIN__LISTEN", "[::1]:9000");
    assert!(
        with(GOOD, &[listen]).unwrap().admin.unwrap().listen.ip().is_loopback(),
        "a variable turns it on"
    );
    check("admin = 7\n", &[], &["relay.toml:1: write [admin]"]);
}
