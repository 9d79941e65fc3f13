//! X10 and X11: passwords, tokens and payloads, and whatever goes wrong with them, at TRACE: in no log, no error, no page, no metric.

use std::path::Path;

use barid_tests::http::Client;
use barid_tests::place::{Hand, Kind, PATIENCE, Place};
use barid_tests::{Process, eventually, servers};
use futures::future::join_all;
use serde_json::json;
use url::Url;

/// The password of every server, and the token.
const SECRET: &str = "S3CR3T-CANARY-0123456789";
/// In the body of every message.
const BODY: &str = "B0DY-CANARY-0123456789";

/// As text, and as what a dump of bytes makes of it.
fn shapes(canary: &str) -> [String; 4] {
    let bytes = |format: fn(&u8) -> String, between: &str| {
        canary.bytes().take(8).map(|byte| format(&byte)).collect::<Vec<_>>().join(between)
    };
    [
        canary.to_owned(),
        bytes(|byte| byte.to_string(), ", "),
        bytes(|byte| format!("{byte:02x}"), ""),
        bytes(|byte| format!("{byte:02X}"), ""),
    ]
}

fn shows_none(what: &str, text: &str) {
    for canary in [SECRET, BODY] {
        for shape in shapes(canary) {
            let line = text.lines().find(|line| line.contains(&shape)).unwrap_or_default();
            let at = line.find(&shape).unwrap_or_default();
            let around: String =
                line.chars().take(200).chain(line.chars().skip(at.saturating_sub(100)).take(300)).collect();
            assert!(line.is_empty(), "{what} shows {canary} as {shape}: {around}");
        }
    }
}

fn with_password(url: &str, user: Option<&str>) -> String {
    let mut url = Url::parse(url).unwrap();
    if let Some(user) = user {
        url.set_username(user).unwrap();
    }
    url.set_password(Some(SECRET)).unwrap();
    url.into()
}

/// One command at TRACE: how it ended, and that it showed nothing.
async fn fails(what: &str, config: &str, command: &str, environment: &[(&str, &str)]) {
    let mut started = Process::relay_command();
    started.args([command, "--config", config]).env("RUST_LOG", "trace").envs(environment.iter().copied());
    let mut process = Process::start(&mut started);
    let status = process.ended(PATIENCE).await;
    assert!(!status.success(), "{what} is no failure");
    shows_none(what, &process.log().join("\n"));
}

#[tokio::test]
async fn x10_no_failure_at_the_start_shows_a_password() {
    let place = Place::new(Kind::Postgres).await;
    let good = std::fs::read_to_string(place.config()).unwrap();
    let (source, sink) = (place.url.clone(), servers::amqp());
    let nowhere = format!("postgres://nobody:{SECRET}@127.0.0.1:1/x");
    let mariadb = with_password(&servers::mariadb(), Some("nobody"));
    let failures = [
        ("a wrong password", good.replace(&source, &with_password(&source, None))),
        ("an unknown user", good.replace(&source, &with_password(&source, Some("nobody")))),
        ("a wrong password of MariaDB", good.replace(&source, &mariadb)),
        ("a database that is not there", good.replace(&source, &nowhere)),
        ("no encryption", good.replace(&source, &nowhere.replace("127.0.0.1", "127.1"))),
        ("a wrong login of RabbitMQ", good.replace(&sink, &with_password(&sink, Some("nobody")))),
        ("a broker that is not there", good.replace(&sink, &format!("amqp://nobody:{SECRET}@127.0.0.1:1/"))),
        (
            "a file that is none",
            good.replace(&source, &format!("sqlite:///nowhere/{SECRET}@x?pass={SECRET}")),
        ),
        ("a scheme that is none", good.replace(&source, &format!("oracle://u:{SECRET}@db/x"))),
        ("an address that is none", good.replace(&sink, &format!("amqp://u:{SECRET}@db:999999/"))),
        ("a quote that is open", good.replacen("\"\n", &format!("{SECRET}\n"), 1)),
        ("a key that is none", format!("{good}\n[sink.k]\nkind = \"kafka\"\npasword = \"{SECRET}\"\n")),
        ("a short token", format!("{good}\n[admin]\ntoken = \"S3CR3T-CANARY\"\n")),
    ];
    let config =
        |name: &str| Path::new(&place.config()).with_file_name(name.replace(' ', "-")).display().to_string();
    join_all(failures.iter().map(async |(what, text)| {
        assert_ne!(*text, good, "{what}");
        std::fs::write(config(what), text).unwrap();
        fails(what, &config(what), "check", &[]).await;
    }))
    .await;
    std::fs::write(place.config(), good).unwrap();
    fails("a wrong variable", &place.config(), "run", &[("BARID_RELAY__SOURCE__MAIN__PASSWORD", SECRET)])
        .await;
}

#[tokio::test]
async fn x10_x11_a_relay_at_work_shows_neither_password_nor_payload() {
    let place = Place::new(Kind::Postgres).await;
    let role = barid_tests::names::unique("canary").replace(['-', '.'], "_");
    place.execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{SECRET}'")).await;
    let token = Path::new(&place.config()).with_file_name("token");
    std::fs::write(&token, SECRET).unwrap();
    let admin = format!("\n[admin]\nlisten = \"127.0.0.1:0\"\nsurvey_ms = 500\ntoken_file = {token:?}\n");
    place.configure_with("queue:*", &admin);
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), text.replace(&place.url, &with_password(&place.url, Some(&role))))
        .unwrap();
    // Delivered, refused by the broker, refused by the routes, and no message at all.
    let there = format!("queue:{}", place.there);
    for (destination, key) in
        [(there.as_str(), "a"), ("queue:nowhere", "b"), ("topic:nowhere", "c"), ("nowhere", "d")]
    {
        place.insert(&Hand::new(destination, key, BODY)).await;
    }
    // Into a file: at TRACE it says more than a process keeps.
    let log = Path::new(&place.config()).with_file_name("log");
    let mut started = tokio::process::Command::new("sh");
    started.args(["-c", "exec \"$0\" run --config \"$1\" 2>\"$2\""]);
    started.arg(Process::relay_command().as_std().get_program()).arg(place.config()).arg(&log);
    let relay = Process::start(started.env("RUST_LOG", "trace"));
    let address = || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let line =
            said.lines().find(|line| line.contains("listening for /livez") && line.contains("/api"))?;
        let address = line.split("address=").nth(1)?.split_whitespace().next()?;
        address.parse::<std::net::SocketAddr>().ok()
    };
    eventually(PATIENCE, "the admin server", async || address().is_some()).await;
    let stranger = Client::new(address().unwrap());
    let admin = Client { token: Some(SECRET.to_owned()), ..stranger.clone() };
    assert_eq!(place.received(&place.there, 1).await[0].body, BODY);
    place.until_parked(3).await;
    let parked = "/api/sources/main/parked";
    for path in ["/livez", "/readyz", "/metrics", "/api/status", parked, "/api/sources/x/parked", "/nowhere"]
    {
        shows_none(path, &admin.get(path).await.body);
        shows_none(path, &stranger.get(path).await.body);
    }
    let retried = admin.post(&format!("{parked}/retry"), &json!({"all": true, "reason": "tried"})).await;
    shows_none("an answer", &retried.body);
    // Everybody is thrown out, the relay comes back.
    let others = format!(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}') x"
    );
    assert!(place.number(&others).await > 0);
    let second = place.insert(&Hand::new(&there, "a", BODY)).await;
    assert_eq!(place.received(&place.there, 1).await[0].id, second);
    assert!(relay.terminate(PATIENCE).await.0.success());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("TRACE") && log.contains("stopped"), "no log at TRACE");
    shows_none("the log", &log);
    place.execute(&format!("DROP ROLE {role}")).await;
}
