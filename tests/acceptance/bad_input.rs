//! Bad input gets an error that names the thing, the place and the remedy; nothing is lost by it, and no password is shown.

#![allow(clippy::unwrap_used, missing_docs)] // a test

use std::{path::PathBuf, time::Duration};

use barid::{
    Bus, Context, Destination, Headers, Memory, Message, Outbox, Outgoing, Result, SqlUnitOfWork, headers,
    store::{AnyPool, schema},
    transport::{Inbox, OutgoingRow, Token, Transport},
};
use barid_tests::{Process, eventually, names::unique, servers};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool};

const BOUND: Duration = Duration::from_secs(30);
const PASSWORD: &str = "geheim-4711";

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    id: i64,
}

/// Runs the relay until it ends and returns its exit code and everything it said.
async fn relay(arguments: &[&str]) -> (Option<i32>, String) {
    let mut relay = Process::relay(arguments);
    let status = relay.ended(BOUND).await;
    (status.code(), relay.log().join("\n"))
}

fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    assert!(!said.contains(PASSWORD), "the password is shown:\n{said}");
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn database(&self) -> String {
        format!("sqlite://{}/orders.db", self.0.path().display())
    }

    async fn pool(&self) -> (AnyPool, SqlitePool) {
        let any = AnyPool::connect(&self.database(), 4).await.unwrap();
        schema::apply(&any).await.unwrap();
        let AnyPool::Sqlite(pool) = any.clone() else { panic!("not SQLite") };
        (any, pool)
    }

    /// A relay from the database of this folder into its own SQL queues.
    fn relay_config(&self, source: &str) -> String {
        let text = format!(
            "[source.orders]\nurl = {source:?}\n\n[sink.queues]\nkind = \"sql\"\nurl = {:?}\n\n\
             [[route]]\ndestination = \"topic:*\"\nsink = \"queues\"\n",
            self.database()
        );
        self.file("relay.toml", &text).display().to_string()
    }
}

#[tokio::test]
async fn unknown_configuration_keys_are_named_with_file_and_line() {
    let folder = Folder::new();
    let config = folder.file(
        "relay.toml",
        "[source.orders]\nurll = \"sqlite:x.db\"\n\n[sink.rabbit]\nkind = \"rabbitmq\"\nwindow_row_max = 3\n",
    );
    let (code, said) = relay(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(code, Some(3), "{said}");
    says(&said, &["relay.toml:2", "urll", "did you mean \"url\"", "relay.toml:6", "window_row_max"]);

    let error = barid::Config::parse("[bus.orders]\ncommit_with_transactions = true\n", "barid.toml", [])
        .unwrap_err();
    says(&error.to_string(), &["BRD018", "barid.toml:2", "commit_with_transactions"]);
}

#[tokio::test]
async fn a_url_of_a_driver_that_is_not_there_names_the_scheme_and_the_remedy() {
    let folder = Folder::new();
    let config = folder.relay_config(&format!("oracle://relay:{PASSWORD}@localhost/orders"));
    let (code, said) = relay(&["check", "--config", &config]).await;
    assert!(code.is_some_and(|code| code != 0), "{said}");
    says(&said, &["oracle", "postgres"]);
}

#[tokio::test]
async fn a_missing_schema_names_the_command_that_makes_it() {
    let folder = Folder::new();
    drop(AnyPool::connect(&folder.database(), 1).await.unwrap());
    let (code, said) = relay(&["run", "--config", &folder.relay_config(&folder.database())]).await;
    assert_eq!(code, Some(5), "{said}");
    says(&said, &["0001_outbox", "barid-relay schema apply"]);

    let AnyPool::Sqlite(pool) = AnyPool::connect(&folder.database(), 1).await.unwrap() else {
        panic!("not SQLite")
    };
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool))
        .handler(ignore)
        .build()
        .unwrap();
    let error = bus.run_until(std::future::ready(())).await.unwrap_err();
    says(&error.to_string(), &["\"orders\"", "0001_outbox", "schema apply"]);
}

async fn ignore(_: OrderPlaced) -> Result<()> {
    Ok(())
}

#[tokio::test]
async fn a_schema_newer_than_the_binary_is_refused() {
    let folder = Folder::new();
    let (_, pool) = folder.pool().await;
    sqlx::query("INSERT INTO barid_schema (version, name, checksum) VALUES (9999, 'from_the_future', 'x')")
        .execute(&pool)
        .await
        .unwrap();
    let (code, said) = relay(&["run", "--config", &folder.relay_config(&folder.database())]).await;
    assert_eq!(code, Some(5), "{said}");
    says(&said, &["9999", "from_the_future", "knows versions up to", "update this program"]);
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_never_shown() {
    for url in [servers::postgres(), servers::mariadb()] {
        let mut url = url::Url::parse(&url).unwrap();
        url.set_username("nobody_of_barid").unwrap();
        url.set_password(Some(PASSWORD)).unwrap();
        let error = AnyPool::connect(url.as_str(), 1).await.unwrap_err();
        says(&format!("{error} {error:?}"), &["nobody_of_barid"]);
    }
    let mut url = url::Url::parse(&servers::amqp()).unwrap();
    url.set_username("nobody_of_barid").unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    let error = barid::RabbitMq::connect(url.as_str()).await.err().unwrap();
    says(&format!("{error} {error:?}"), &["refused the credentials"]);

    let folder = Folder::new();
    let (_, _) = folder.pool().await;
    let text = format!(
        "[source.orders]\nurl = {:?}\n[sink.rabbit]\nkind = \"rabbitmq\"\nurl = {:?}\n[[route]]\ndestination = \"*\"\n\
         sink = \"rabbit\"\n",
        folder.database(),
        url.as_str()
    );
    let config = folder.file("relay.toml", &text);
    let (code, said) = relay(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(code, Some(4), "{said}");
    says(&said, &["[sink.rabbit]", "refused the credentials"]);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_and_waited_for() {
    let folder = Folder::new();
    let (_, pool) = folder.pool().await;
    let mut connection = pool.acquire().await.unwrap();
    Outbox::new("test").enqueue::<Sqlite>(&mut connection, OrderPlaced { id: 1 }).await.unwrap();
    let text = format!(
        "[source.orders]\nurl = {:?}\n[sink.rabbit]\nkind = \"rabbitmq\"\nurl = \"amqp://guest:{PASSWORD}@127.0.0.1:1/\"\n\
         [[route]]\ndestination = \"*\"\nsink = \"rabbit\"\n",
        folder.database()
    );
    let config = folder.file("relay.toml", &text);
    let (code, said) = relay(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(code, Some(4), "{said}");
    says(&said, &["[sink.rabbit]", "127.0.0.1:1"]);
    // A broker that comes back later must not need a human: the relay waits, and the row with it.
    let mut running = Process::relay(["run", "--config", config.to_str().unwrap()]);
    says(&running.line_with("cannot reach", BOUND).await, &["127.0.0.1:1"]);
    let (_, log) = running.terminate(BOUND).await;
    says(&log.join("\n"), &[]);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(rows, 1, "the row is lost");
}

#[tokio::test]
async fn a_row_with_an_unknown_destination_is_parked_with_the_reason_and_its_neighbours_go_on() {
    let folder = Folder::new();
    let (any, pool) = folder.pool().await;
    let queue = unique("audit");
    let sql = barid::SqlQueue::new(any);
    sql.declare(&Inbox::new(&queue).topic("orders")).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let outbox = Outbox::new("test");
    let nowhere = Destination::queue("nowhere").unwrap();
    outbox
        .enqueue::<Sqlite>(&mut connection, Outgoing::new(OrderPlaced { id: 1 }).key(1).to(nowhere))
        .await
        .unwrap();
    outbox.enqueue::<Sqlite>(&mut connection, Outgoing::new(OrderPlaced { id: 2 }).key(2)).await.unwrap();
    drop(connection);
    let running = Process::relay(["run", "--config", &folder.relay_config(&folder.database())]);
    eventually(BOUND, "the neighbour arrived and the row is parked", async || {
        let (arrived, parked, waiting): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM queue_message),(SELECT count(*) FROM relay_parked),(SELECT count(*) FROM outbox)",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (arrived, parked, waiting) == (1, 1, 0)
    })
    .await;
    running.terminate(BOUND).await;
    let reason: String =
        sqlx::query_scalar("SELECT last_error FROM relay_parked").fetch_one(&pool).await.unwrap();
    says(&reason, &["queue:nowhere", "topic:*"]);
}

/// Sends one message to a bus on memory and returns the headers of the dead letter that it becomes.
async fn dead_letter(name: &str, body: &str) -> Headers {
    async fn touch(_: OrderPlaced, cx: Context) -> Result<()> {
        panic!("{} must not be handled", cx.message_id())
    }
    let network = Memory::new();
    let bus = Bus::builder("orders").transport(network.clone()).handler(touch).build().unwrap();
    network.declare(&Inbox::new("orders")).await.unwrap();
    let row = OutgoingRow {
        seq: 0,
        id: uuid::Uuid::now_v7(),
        destination: Destination::queue("orders").unwrap(),
        aggregatetype: "orders".into(),
        aggregateid: None,
        name: name.into(),
        payload: Some(body.to_owned().into()),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    };
    network.publisher().await.unwrap().submit(&row, Token(0)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { bus.run_until(async { drop(stopped.await) }).await });
    eventually(BOUND, "the dead letter", async || network.len("dead-letters") == 1).await;
    drop(stop);
    running.await.unwrap().unwrap();
    let (headers, kept) = network.peek("dead-letters").remove(0);
    assert_eq!(kept, body, "the body of a dead letter is what arrived");
    assert_eq!(headers.get(headers::ID), Some(row.id.to_string().as_str()));
    headers
}

#[tokio::test]
async fn a_payload_that_does_not_deserialize_becomes_a_dead_letter_with_the_reason() {
    let headers = dead_letter("orders.placed", "{\"id\": \"seven\"}").await;
    says(headers.get(headers::DEAD_CAUSE).unwrap(), &["orders.placed", "touch", "seven"]);
    assert_eq!(headers.get(headers::DEAD_SOURCE), Some("orders"));
    assert_eq!(headers.get(headers::DEAD_ATTEMPTS), Some("1"));
    assert!(headers.get(headers::DEAD_AT).is_some());
}

#[tokio::test]
async fn a_message_without_a_handler_becomes_a_dead_letter_that_lists_the_handlers() {
    let headers = dead_letter("orders.cancelled", "{}").await;
    says(headers.get(headers::DEAD_CAUSE).unwrap(), &["orders.cancelled", "orders.placed"]);
}
