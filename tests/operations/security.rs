//! Security controls that no other test shows; `docs/security.md` lists them all.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "security/canary.rs"]
mod canary;

use barid::{Destination, Message, Outbox, Outgoing, store::AnyPool};
use barid_relay::config::AdminConfig;
use barid_tests::Process;
use barid_tests::place::{Hand, Kind, PATIENCE, Place};
use barid_tests::roles::{Roles, as_role, tried};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Executor, MySql, MySqlConnection, Postgres};
use tokio::process::Command;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed {
    id: i64,
}

/// What the framework writes to the outbox needs nothing but INSERT: it reads nothing back, and could not.
#[tokio::test]
async fn x01_an_application_writes_without_the_right_to_read() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let place = Place::new(kind).await;
        let roles = Roles::of(&place).await;
        let pool = AnyPool::connect(&as_role(&place, &roles.app), 1).await.unwrap();
        let to = Destination::queue(place.there.as_str()).unwrap();
        let message = Outgoing::new(Placed { id: 1 }).key(1).to(to);
        let outbox = Outbox::new("shop");
        match &pool {
            AnyPool::Postgres(pool) => {
                outbox.enqueue::<Postgres>(&mut *pool.acquire().await.unwrap(), message).await.unwrap();
            }
            AnyPool::MySql(pool) => {
                outbox.enqueue::<MySql>(&mut *pool.acquire().await.unwrap(), message).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(place.number("SELECT count(*) FROM outbox").await, 1, "{kind:?}");
        let returning = match kind {
            Kind::Postgres => {
                "INSERT INTO outbox (id, destination, aggregatetype, type) \
                VALUES (gen_random_uuid(), 'queue:a', 'a', 'a') RETURNING seq"
            }
            _ => {
                "INSERT INTO outbox (id, destination, aggregatetype, `type`) \
                VALUES (UNHEX(REPLACE(UUID(), '-', '')), 'queue:a', 'a', 'a') RETURNING seq"
            }
        };
        let refused = tried(&place, &roles.app, returning).await.unwrap_err().to_string();
        assert!(refused.contains("denied"), "{kind:?}: {refused}");
        pool.close().await;
        roles.drop_from(&place).await;
    }
}

/// On MariaDB whoever may read rows may lock them. That holds up their deletion, hides none from the relay, and sends none twice.
#[tokio::test]
async fn x03_whoever_locks_rows_hides_none_from_the_relay() {
    let place = Place::new(Kind::MariaDb).await;
    let there = format!("queue:{}", place.there);
    let first = place.insert(&Hand::new(&there, "a", "1")).await;
    let mut reporter = MySqlConnection::connect(&place.url).await.unwrap();
    reporter.execute("BEGIN").await.unwrap();
    reporter.execute("SELECT seq FROM outbox FOR UPDATE SKIP LOCKED").await.unwrap();
    let relay = place.relay();
    assert_eq!(place.received(&place.there, 1).await[0].id, first);
    assert_eq!(place.number("SELECT count(*) FROM outbox").await, 1, "the lock holds up its deletion");
    reporter.execute("ROLLBACK").await.unwrap();
    place.until("the row is deleted", "SELECT count(*) FROM outbox", 0).await;
    let second = place.insert(&Hand::new(&there, "a", "2")).await;
    assert_eq!(place.received(&place.there, 1).await[0].id, second, "the first did not come twice");
    assert!(relay.terminate(PATIENCE).await.0.success());
}

/// A server that is not on this machine, offers no encryption, or whoever stands in front of it says so: nobody sends it a password.
#[tokio::test]
async fn x07_a_server_elsewhere_without_encryption_gets_no_password() {
    for (kind, remedy) in [(Kind::Postgres, "sslrootcert=FILE"), (Kind::MariaDb, "ssl-ca=FILE")] {
        let place = Place::new(kind).await;
        // A name of this machine that the program does not know as one.
        let good = std::fs::read_to_string(place.config()).unwrap();
        let elsewhere = place.url.replace("@127.0.0.1:", "@127.1:");
        assert_ne!(elsewhere, place.url);
        std::fs::write(place.config(), good.replace(&place.url, &elsewhere)).unwrap();
        for command in ["check", "run"] {
            let (code, said) = place.command(&[command]).await;
            assert_eq!(code, 4, "{said}");
            assert!(said.contains("no safe connection") && said.contains(remedy), "{said}");
        }
        // Who wants it so gets it so.
        let plain = if kind == Kind::Postgres { "sslmode=disable" } else { "ssl-mode=DISABLED" };
        std::fs::write(place.config(), good.replace(&place.url, &format!("{elsewhere}?{plain}"))).unwrap();
        assert_eq!(place.command(&["check"]).await.0, 0);
    }
}

/// A password among the arguments is seen by every user of the machine, in `ps`.
#[tokio::test]
async fn x09_a_password_on_the_command_line_is_warned_of() {
    let place = Place::new(Kind::Postgres).await;
    let run = async |command: &mut Command| {
        let mut process = Process::start(command);
        assert!(process.ended(PATIENCE).await.success());
        process.log().join("\n")
    };
    let said = run(Process::relay_command().args(["schema", "apply", "--url", &place.url])).await;
    assert!(said.contains("BARID_RELAY_SCHEMA_URL"), "{said}");
    let mut quiet = Process::relay_command();
    let said = run(quiet.args(["schema", "apply"]).env("BARID_RELAY_SCHEMA_URL", &place.url)).await;
    assert!(!said.contains("warning"), "{said}");
}

/// The section alone opens nothing to others. Others have got this wrong in a later release.
#[test]
fn x12_the_admin_server_is_for_this_machine_by_default() {
    let default = AdminConfig::default();
    assert!(default.listen.ip().is_loopback(), "{}", default.listen);
    assert!(default.token.is_none() && default.token_file.is_none());
    let section: AdminConfig = toml::from_str("").unwrap();
    assert_eq!(section.listen, default.listen);
}

/// Headers that are nested a thousand deep cost a reason, and nobody else anything.
#[tokio::test]
async fn x19_deep_headers_are_parked_and_the_neighbours_go_on() {
    let place = Place::new(Kind::Sqlite).await;
    let there = format!("queue:{}", place.there);
    // As deep as SQLite takes it, and far deeper than the parser goes.
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(900), "]".repeat(900));
    place.insert(&Hand { headers: Some(&deep), ..Hand::new(&there, "a", "1") }).await;
    let neighbour = place.insert(&Hand::new(&there, "b", "2")).await;
    let relay = place.relay();
    assert_eq!(place.received(&place.there, 1).await[0].id, neighbour);
    place.until_parked(1).await;
    let reason = place.texts("SELECT last_error FROM relay_parked").await;
    assert!(reason[0].contains("headers are not a JSON object of strings"), "{reason:?}");
    assert!(relay.terminate(PATIENCE).await.0.success());
}

/// A trace goes on; what an application did not write into its row does not travel, `baggage` above all.
#[tokio::test]
async fn x23_only_what_the_row_holds_travels() {
    use barid::transport::{Inbox, Transport};

    let place = Place::new(Kind::Postgres).await;
    let there = format!("queue:{}", place.there);
    let headers = r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","mine":"1"}"#;
    place.insert(&Hand { headers: Some(headers), ..Hand::new(&there, "a", "1") }).await;
    let relay = place.relay();
    let broker = barid::RabbitMq::connect(&barid_tests::servers::amqp()).await.unwrap();
    let mut consumer = broker.consumer(&Inbox::new(&place.there)).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, consumer.receive()).await.expect("the message").unwrap();
    let mut names: Vec<String> = got.headers.iter().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    assert_eq!(names, ["barid-aggregate", "barid-id", "barid-key", "barid-type", "mine", "traceparent"]);
    got.settlement.ack().await.unwrap();
    consumer.close().await.unwrap();
    assert!(relay.terminate(PATIENCE).await.0.success());
}

/// A configuration that holds a password and that everybody can read is told of, by all who read it.
#[tokio::test]
async fn x28_a_configuration_with_a_password_for_everybody_is_told_of() {
    let place = Place::new(Kind::Postgres).await;
    let mode = async |mode: &str| {
        assert!(Command::new("chmod").args([mode, &place.config()]).status().await.unwrap().success());
    };
    let tells = "every user of this machine can read it";
    mode("644").await;
    for command in ["check", "doctor"] {
        let (code, said) = place.command(&[command]).await;
        assert!(code == 0 && said.contains(tells) && said.contains("chmod o= "), "{command}: {code} {said}");
    }
    let mut relay = place.relay();
    relay.line_with(tells, PATIENCE).await;
    relay.line_with("claimed the outbox", PATIENCE).await;
    assert!(relay.terminate(PATIENCE).await.0.success());
    mode("640").await;
    for command in ["check", "doctor"] {
        let (code, said) = place.command(&[command]).await;
        assert!(code == 0 && !said.contains(tells), "{command}: {code} {said}");
    }
    // With the secrets elsewhere everybody may read it.
    let mut text = std::fs::read_to_string(place.config()).unwrap();
    for (name, url) in [("source", place.url.clone()), ("sink", barid_tests::servers::amqp())] {
        let file = std::path::Path::new(&place.config()).with_file_name(name);
        std::fs::write(&file, &url).unwrap();
        text = text.replace(&format!("url = {url:?}"), &format!("url_file = {file:?}"));
    }
    std::fs::write(place.config(), text).unwrap();
    mode("644").await;
    let (code, said) = place.command(&["check"]).await;
    assert!(code == 0 && !said.contains(tells), "{code} {said}");
}
