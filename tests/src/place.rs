//! A database of one of the three kinds, and what the relay publishes to: RabbitMQ beside PostgreSQL, the SQL queue in the
//! same database on the others.

#![allow(clippy::unwrap_used)] // what a test needs, a test may insist on

use std::time::Duration;

use crate::{Process, TestDatabase, eventually, names, servers};
use barid::store::{AnyPool, schema};
use barid::{
    Destination, Outgoing, RabbitMq, Sender, SqlQueue, Transport, headers,
    transport::{Consumer, Inbox},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, MySql, Postgres, Sqlite};
use tempfile::TempDir;
use uuid::Uuid;

/// Bounds every wait that ends with an event.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    MariaDb,
    /// SQLite.
    Sqlite,
}

/// All three.
pub const KINDS: [Kind; 3] = [Kind::Postgres, Kind::MariaDb, Kind::Sqlite];

/// Kept for what it does at its end.
#[allow(dead_code)]
enum Database {
    Postgres(TestDatabase<Postgres>),
    MariaDb(TestDatabase<MySql>),
    Sqlite(TestDatabase<Sqlite>),
}

/// A database with the schema, a queue, and a configuration of the relay that joins them.
pub struct Place {
    /// Which database.
    pub kind: Kind,
    /// Its address.
    pub url: String,
    /// Connections to it.
    pub pool: AnyPool,
    /// A queue that exists from the beginning, and one that somebody forgot.
    pub there: String,
    /// See `there`.
    pub missing: String,
    folder: TempDir,
    _database: Database,
}

/// Runs `$body` with the pool, whatever its kind.
macro_rules! on {
    ($self:expr, $pool:ident => $body:expr) => {
        match &$self.pool {
            AnyPool::Postgres($pool) => $body,
            AnyPool::MySql($pool) => $body,
            AnyPool::Sqlite($pool) => $body,
            other => panic!("{other:?}"),
        }
    };
}

/// One copy of a message that was delivered.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The message id.
    pub id: Uuid,
    /// The ordering key.
    pub key: String,
    /// The body, as text.
    pub body: String,
}

impl Place {
    /// With the schema, a queue, and a configuration that sends everything to it.
    pub async fn new(kind: Kind) -> Self {
        let (url, database) = match kind {
            Kind::Postgres => {
                let database = TestDatabase::postgres().await;
                (database.url.clone(), Database::Postgres(database))
            }
            Kind::MariaDb => {
                let database = TestDatabase::mariadb().await;
                (database.url.clone(), Database::MariaDb(database))
            }
            Kind::Sqlite => {
                let database = TestDatabase::sqlite().await;
                (database.url.clone(), Database::Sqlite(database))
            }
        };
        let pool = AnyPool::connect(&url, 8).await.unwrap();
        schema::apply(&pool).await.unwrap();
        let (there, missing) = (names::unique("there"), names::unique("missing"));
        let folder = tempfile::tempdir().unwrap();
        let place = Self { kind, url, pool, there, missing, folder, _database: database };
        place.declare(&place.there).await;
        place.configure("queue:*");
        place
    }

    /// Lets destinations that match go out; each place has one source, `main`.
    pub fn configure(&self, routed: &str) {
        self.configure_with(routed, "");
    }

    /// The same with more sections.
    pub fn configure_with(&self, routed: &str, more: &str) {
        let sink = match self.kind {
            Kind::Postgres => format!("kind = \"rabbitmq\"\nurl = {:?}\n", servers::amqp()),
            _ => format!("kind = \"sql\"\nurl = {:?}\n", self.url),
        };
        let text = format!(
            "[source.main]\nurl = {:?}\n\n[sink.out]\n{sink}\n[[route]]\ndestination = {routed:?}\nsink = \"out\"\n{more}",
            self.url
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// The file of the configuration.
    pub fn config(&self) -> String {
        self.folder.path().join("relay.toml").to_str().unwrap().to_owned()
    }

    fn transport(&self) -> SqlQueue {
        SqlQueue::new(self.pool.clone())
    }

    /// Makes a queue exist.
    pub async fn declare(&self, queue: &str) {
        let mut inbox = Inbox::new(queue);
        inbox.prefetch = 1_000;
        match self.kind {
            Kind::Postgres => {
                let broker = RabbitMq::connect(&servers::amqp()).await.unwrap();
                broker.declare(&inbox).await.unwrap();
            }
            _ => self.transport().declare(&inbox).await.unwrap(),
        }
    }

    /// So many messages of a queue, in its order; each is acknowledged.
    pub async fn received(&self, queue: &str, count: usize) -> Vec<Copy> {
        let mut consumer = self.consumer(queue).await;
        let copies = self.take(&mut *consumer, count).await;
        consumer.close().await.unwrap();
        copies
    }

    async fn consumer(&self, queue: &str) -> Box<dyn Consumer> {
        let mut inbox = Inbox::new(queue);
        inbox.prefetch = 1_000;
        match self.kind {
            Kind::Postgres => {
                RabbitMq::connect(&servers::amqp()).await.unwrap().consumer(&inbox).await.unwrap()
            }
            _ => self.transport().consumer(&inbox).await.unwrap(),
        }
    }

    async fn take(&self, consumer: &mut dyn Consumer, count: usize) -> Vec<Copy> {
        let mut copies = Vec::new();
        while copies.len() < count {
            let got = tokio::time::timeout(PATIENCE, consumer.receive()).await;
            let got =
                got.unwrap_or_else(|_| panic!("only {} of {count} messages came", copies.len())).unwrap();
            copies.push(Copy {
                id: got.headers.get(headers::ID).unwrap().parse().unwrap(),
                key: got.headers.get(headers::KEY).unwrap_or_default().to_owned(),
                body: String::from_utf8(got.body.to_vec()).unwrap(),
            });
            got.settlement.ack().await.unwrap();
        }
        copies
    }

    /// All messages of a queue, in its order. Nobody may be publishing.
    pub async fn drained(&self, queue: &str) -> Vec<Copy> {
        const MARK: &str = "the end";
        let broker = RabbitMq::connect(&servers::amqp()).await.unwrap();
        let sender = Sender::connect(&broker, "test").await.unwrap();
        let to = Destination::queue(queue).unwrap();
        sender.send(Outgoing::raw("mark", Some(MARK.into())).to(to)).await.unwrap();
        let mut consumer = self.consumer(queue).await;
        let mut copies = Vec::new();
        while copies.last().is_none_or(|copy: &Copy| copy.body != MARK) {
            copies.extend(self.take(&mut *consumer, 1).await);
        }
        consumer.close().await.unwrap();
        copies.pop();
        copies
    }

    /// Everything that is in the SQL queues, in the order in which it came.
    pub async fn queued(&self) -> Vec<Copy> {
        let query = "SELECT id, ordering_key, body FROM queue_message ORDER BY seq";
        let rows: Vec<(Uuid, Option<String>, Vec<u8>)> =
            on!(self, pool => sqlx::query_as(query).fetch_all(pool).await.unwrap());
        let copy = |(id, key, body): (Uuid, Option<String>, Vec<u8>)| Copy {
            id,
            key: key.unwrap_or_default(),
            body: String::from_utf8(body).unwrap(),
        };
        rows.into_iter().map(copy).collect()
    }

    /// A number out of the database.
    pub async fn number(&self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        on!(self, pool => sqlx::query_scalar(query).fetch_one(pool).await.unwrap())
    }

    /// A column of texts.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let query = AssertSqlSafe(query.to_owned());
        on!(self, pool => sqlx::query_scalar(query).fetch_all(pool).await.unwrap())
    }

    /// Statements in the database.
    pub async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        on!(self, pool => {
            sqlx::raw_sql(statement).execute(pool).await.unwrap();
        });
    }

    /// Writes a row as somebody would who knows nothing of the framework.
    pub async fn insert(&self, row: &Hand<'_>) -> Uuid {
        let id = row.id.unwrap_or_else(Uuid::now_v7);
        let columns = "id, destination, aggregatetype, aggregateid, type, payload, headers";
        let text = match self.kind {
            Kind::Postgres => {
                format!("INSERT INTO outbox ({columns}) VALUES ($1, $2, 'order', $3, $4, $5, $6::jsonb)")
            }
            _ => format!("INSERT INTO outbox ({columns}) VALUES (?, ?, 'order', ?, ?, ?, ?)"),
        };
        let text = AssertSqlSafe(text);
        on!(self, pool => {
            let insert = sqlx::query(text).bind(id).bind(row.destination).bind(row.key).bind(row.name);
            let insert = insert.bind(row.body.as_bytes().to_vec()).bind(row.headers.unwrap_or("{}"));
            insert.execute(pool).await.unwrap();
        });
        id
    }

    /// Starts the relay.
    pub fn relay(&self) -> Process {
        Process::relay(["run", "--config", &self.config()])
    }

    /// One command on parked messages: how it ended, and all that it said.
    pub async fn parked(&self, arguments: &[&str]) -> (i32, String) {
        self.command(&[&["parked"], arguments].concat()).await
    }

    /// One command: how it ended, and all that it said.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String) {
        let config = self.config();
        let mut process = Process::relay([arguments, &["--config", &config]].concat());
        let status = process.ended(PATIENCE).await;
        (status.code().unwrap_or(-1), process.log().join("\n"))
    }

    /// One command that works, as a program reads it.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let (code, said) = self.parked(&[arguments, &["--output", "json"]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {said}");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Waits until a number in the database is `wanted`.
    pub async fn until(&self, what: &str, query: &str, wanted: i64) {
        eventually(PATIENCE, what, async || self.number(query).await == wanted).await;
    }

    /// Waits until so many rows are parked and none is left in the outbox.
    pub async fn until_parked(&self, rows: i64) {
        self.until(&format!("{rows} rows are parked"), "SELECT count(*) FROM relay_parked", rows).await;
        self.until("the outbox is empty", "SELECT count(*) FROM outbox", 0).await;
    }
}

/// A row written by hand.
pub struct Hand<'a> {
    /// The message id; a new one when none is given.
    pub id: Option<Uuid>,
    /// `queue:NAME` or `topic:NAME`, or something that is neither.
    pub destination: &'a str,
    /// The ordering key.
    pub key: Option<&'a str>,
    /// The message name.
    pub name: &'a str,
    /// The body.
    pub body: &'a str,
    /// The headers as JSON.
    pub headers: Option<&'a str>,
}

impl<'a> Hand<'a> {
    /// A row with a key.
    pub fn new(destination: &'a str, key: &'a str, body: &'a str) -> Self {
        Self { id: None, destination, key: Some(key), name: "orders.placed", body, headers: None }
    }
}
