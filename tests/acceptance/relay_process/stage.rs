//! An outbox on PostgreSQL, a queue on RabbitMQ, and a configuration that joins them.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use barid::{Destination, Outgoing, RabbitMq, Sender, Transport, headers, transport::Inbox};
use barid_tests::{Process, TestDatabase, names, servers};
use sqlx::Postgres;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Rows that the relay may have in flight.
pub(crate) const WINDOW: usize = 32;
const KEYS: i64 = 100;
const MARK: &str = "relay.mark";

pub(crate) struct Stage {
    pub(crate) database: TestDatabase<Postgres>,
    broker: RabbitMq,
    queue: Inbox,
    folder: TempDir,
}

/// One copy that the broker got.
pub(crate) struct Copy {
    pub(crate) id: Uuid,
    key: String,
    number: i64,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::postgres().await;
        let broker = RabbitMq::connect(&servers::amqp()).await.unwrap();
        let mut queue = Inbox::new(names::unique("relay-process"));
        queue.prefetch = 1_000;
        broker.declare(&queue).await.unwrap();
        let stage = Self { database, broker, queue, folder: tempfile::tempdir().unwrap() };
        stage.configure(&stage.database.url, &servers::amqp());
        stage
    }

    /// With the schema.
    pub(crate) async fn ready() -> Self {
        let stage = Self::new().await;
        let (code, said) = stage.run(&["schema", "apply"]).await;
        assert_eq!(code, 0, "{said}");
        stage
    }

    /// Writes the configuration.
    pub(crate) fn configure(&self, source: &str, broker: &str) {
        let text = format!(
            "[source.orders]\nurl = {source:?}\n\n[sink.rabbit]\nkind = \"rabbitmq\"\nurl = {broker:?}\n\
             window_rows_max = {WINDOW}\n\n[[route]]\ndestination = \"queue:*\"\nsink = \"rabbit\"\n\n\
             [relay]\ndrain_ms = 60000\n"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// Starts the program with these arguments and the configuration.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        let config = self.config();
        let config = ["--config", config.to_str().unwrap()];
        Process::relay(arguments.iter().chain(&config))
    }

    /// The same, up to its end: how it ended, and all that it said.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (i32, String) {
        ended(self.start(arguments)).await
    }

    /// Commits so many rows to the outbox, in the order of their numbers per key.
    pub(crate) async fn commit_rows(&self, rows: i64) {
        let insert = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
             SELECT gen_random_uuid(), $1, 'orders', (n % $2)::text, 'orders.placed', n::text::bytea \
             FROM generate_series(1, $3) g (n) ORDER BY g.n";
        let insert = sqlx::query(insert).bind(format!("queue:{}", self.queue.queue)).bind(KEYS).bind(rows);
        insert.execute(&self.database.pool).await.unwrap();
    }

    /// The ids in the outbox.
    pub(crate) async fn outbox(&self) -> Vec<Uuid> {
        sqlx::query_scalar("SELECT id FROM outbox").fetch_all(&self.database.pool).await.unwrap()
    }

    pub(crate) async fn outbox_len(&self) -> i64 {
        let counted = sqlx::query_scalar("SELECT count(*) FROM outbox");
        counted.fetch_one(&self.database.pool).await.unwrap()
    }

    /// Returns as soon as there are fewer rows than that: a relay is publishing.
    pub(crate) async fn fewer_than(&self, rows: i64) {
        let fewer = async { while self.outbox_len().await >= rows {} };
        tokio::time::timeout(PATIENCE, fewer).await.expect("a relay publishes");
    }

    /// Everything that the broker has confirmed by now, in its order.
    pub(crate) async fn published(&self) -> Vec<Copy> {
        let sender = Sender::connect(&self.broker, "test").await.unwrap();
        let queue = Destination::queue(self.queue.queue.as_str()).unwrap();
        sender.send(Outgoing::raw(MARK, None).to(queue)).await.unwrap();
        let mut consumer = self.broker.consumer(&self.queue).await.unwrap();
        let mut copies = Vec::new();
        loop {
            let received = tokio::time::timeout(PATIENCE, consumer.receive()).await.expect("a mark").unwrap();
            let header = |name| received.headers.get(name).unwrap();
            if header(headers::TYPE) == MARK {
                received.settlement.ack().await.unwrap();
                consumer.close().await.unwrap();
                return copies;
            }
            let number = std::str::from_utf8(&received.body).unwrap().parse().unwrap();
            copies.push(Copy {
                id: header(headers::ID).parse().unwrap(),
                key: header(headers::KEY).to_owned(),
                number,
            });
            received.settlement.ack().await.unwrap();
        }
    }
}

/// How a process ends by itself, and all that it said.
pub(crate) async fn ended(mut process: Process) -> (i32, String) {
    let status = process.ended(PATIENCE).await;
    (status.code().unwrap_or(-1), process.log().join("\n"))
}

pub(crate) async fn signal(process: &Process, signal: &str) {
    let id = process.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
}

/// Copies by message; panics when a key's first copies are out of order.
pub(crate) fn in_order(copies: &[Copy]) -> HashMap<Uuid, usize> {
    let (mut by_id, mut last) = (HashMap::new(), HashMap::new());
    for copy in copies {
        let known = by_id.entry(copy.id).or_insert(0);
        *known += 1;
        if *known == 1 {
            let before = last.insert(copy.key.as_str(), copy.number).unwrap_or(0);
            assert!(before < copy.number, "{} came after {before} of key {}", copy.number, copy.key);
        }
    }
    by_id
}
