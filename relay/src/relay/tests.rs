//! The whole relay on a SQLite file, with a broker that answers as it is told.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use barid::{
    store::{AnyPool, schema},
    transport::{
        Consumer, Full, Inbox, OutgoingRow, Promises, Publisher, Transport, TransportError, sql::SqlQueue,
    },
};
use sqlx::{Executor, SqlitePool};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::*;
use crate::{lane::Order, source::sqlite::SqliteSource};

mod archive;
mod lease;
mod left_out;
mod poison;
mod released;

const SOON: Duration = Duration::from_secs(20);

/// A broker that confirms, unless it was told another answer for a message name.
#[derive(Default)]
struct Broker {
    seen: Mutex<Vec<(String, Uuid)>>,
    /// Answers for the next rows of a name; `None` is silence.
    script: Mutex<HashMap<String, VecDeque<Option<Outcome>>>>,
    changed: Notify,
}

struct Answering {
    broker: Arc<Broker>,
    answers: VecDeque<(Token, Outcome)>,
    silent: Vec<Token>,
}

impl Broker {
    fn answers(&self, name: &str, answers: impl IntoIterator<Item = Option<Outcome>>) {
        self.script.lock().unwrap().insert(name.to_owned(), answers.into_iter().collect());
    }

    fn names(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    async fn saw(&self, count: usize) {
        let enough = async {
            loop {
                let changed = self.changed.notified();
                if self.seen.lock().unwrap().len() >= count {
                    return;
                }
                changed.await;
            }
        };
        timeout(SOON, enough).await.unwrap_or_else(|_| panic!("only {:?}", self.names()));
    }
}

struct Transporting(Arc<Broker>);

#[async_trait]
impl Transport for Transporting {
    fn promises(&self) -> Promises {
        Promises {
            durable: false,
            knows_repeats: false,
            delays: false,
            orders_keys: false,
            refuses_unknown_queues: false,
        }
    }

    async fn declare(&self, _inbox: &Inbox) -> Result<(), TransportError> {
        Ok(())
    }

    async fn consumer(&self, _inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Err(TransportError::Database("nobody receives here".to_owned()))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(Answering { broker: self.0.clone(), answers: VecDeque::new(), silent: Vec::new() }))
    }
}

#[async_trait]
impl Publisher for Answering {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        self.broker.seen.lock().unwrap().push((row.name.clone(), row.id));
        let mut script = self.broker.script.lock().unwrap();
        let answer =
            script.get_mut(&row.name).and_then(VecDeque::pop_front).unwrap_or(Some(Outcome::Confirmed));
        match answer {
            Some(outcome) => self.answers.push_back((token, outcome)),
            None => self.silent.push(token),
        }
        self.broker.changed.notify_waiters();
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        if self.answers.is_empty() {
            std::future::pending::<()>().await;
        }
        self.answers.drain(..).collect()
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        let silent = self.silent.into_iter().map(|token| (token, Outcome::Confirmed));
        self.answers.into_iter().chain(silent).collect()
    }
}

struct Stage {
    pool: SqlitePool,
    broker: Arc<Broker>,
    _folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?synchronous=off", folder.path().join("a.db").display());
        let opened = AnyPool::connect(&url, 8).await.unwrap();
        schema::apply(&opened).await.unwrap();
        let AnyPool::Sqlite(pool) = opened else { panic!("not SQLite") };
        Self { pool, broker: Arc::default(), _folder: folder }
    }

    async fn insert(&self, name: &str, key: Option<&str>, destination: &str) {
        self.insert_all([(name, key, destination)]).await;
    }

    /// Rows that the relay sees at once.
    async fn insert_all<'a>(&self, rows: impl IntoIterator<Item = (&'a str, Option<&'a str>, &'a str)>) {
        let insert = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) ";
        let mut insert = sqlx::QueryBuilder::<sqlx::Sqlite>::new(insert);
        insert.push_values(rows, |mut values, (name, key, destination)| {
            values.push_bind(Uuid::now_v7()).push_bind(destination).push_bind("order").push_bind(key);
            values.push_bind(name).push("x'01'");
        });
        insert.build().execute(&self.pool).await.unwrap();
    }

    fn relay(&self, settings: Settings) -> Relay {
        Relay::builder(Arc::new(SqliteSource::new("main", self.pool.clone())))
            .sink(Sink::new("broker", Arc::new(Transporting(self.broker.clone()))))
            .route("queue:*", "broker", Order::Strict)
            .settings(settings)
            .build()
            .unwrap()
    }

    fn start(&self) -> (CancellationToken, JoinHandle<Stats>) {
        let stop = CancellationToken::new();
        let running = self.relay(Settings::default()).run_until(stop.clone().cancelled_owned());
        (stop, tokio::spawn(async { running.await.unwrap() }))
    }

    async fn count(&self, table: &'static str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    async fn until(&self, table: &'static str, rows: i64) {
        let reached = async {
            while self.count(table).await != rows {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.unwrap_or_else(|_| panic!("{table} never had {rows} rows"));
    }
}

#[tokio::test]
async fn rows_are_published_in_order_and_deleted() {
    let stage = Stage::new().await;
    for at in 0..500 {
        stage.insert(&format!("m{at}"), Some(&(at % 7).to_string()), "queue:a").await;
    }
    let (stop, running) = stage.start();
    stage.broker.saw(500).await;
    stage.until("outbox", 0).await;
    stop.cancel();
    assert_eq!(running.await.unwrap().confirmed, 500);
    let names = stage.broker.names();
    for key in 0..7 {
        let of_key: Vec<u32> =
            names.iter().map(|name| name[1..].parse().unwrap()).filter(|at| at % 7 == key).collect();
        assert!(of_key.is_sorted(), "key {key}: {of_key:?}");
    }
}

#[tokio::test]
async fn a_transient_or_unknown_answer_is_followed_by_the_same_row_before_its_key_goes_on() {
    let stage = Stage::new().await;
    let (busy, lost) = (Outcome::Transient("busy".to_owned()), Outcome::Unknown("lost".to_owned()));
    stage.broker.answers("one", [Some(busy), Some(lost)]);
    stage.insert("one", Some("k"), "queue:a").await;
    stage.insert("two", Some("k"), "queue:a").await;
    let (stop, running) = stage.start();
    stage.until("outbox", 0).await;
    stop.cancel();
    assert_eq!(running.await.unwrap().retried, 2);
    assert_eq!(stage.broker.names(), ["one", "one", "one", "two"]);
    let seen = stage.broker.seen.lock().unwrap();
    assert!(seen[0].1 == seen[1].1 && seen[1].1 == seen[2].1, "always with the same id");
}

#[tokio::test]
async fn a_permanent_answer_parks_the_row_and_its_key_stays_held_after_a_restart() {
    let stage = Stage::new().await;
    stage.broker.answers("one", [Some(Outcome::Permanent("too large".to_owned()))]);
    for (name, key) in [("one", "k"), ("two", "k"), ("other", "l")] {
        stage.insert(name, Some(key), "queue:a").await;
    }
    let (stop, running) = stage.start();
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    let (stop, running) = stage.start();
    stage.insert("three", Some("k"), "queue:a").await;
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(
        stage.broker.names().iter().filter(|name| *name != "other").count(),
        1,
        "only the first was tried"
    );
    let parked =
        "SELECT type, state, attempts, last_error FROM relay_parked WHERE source = 'main' ORDER BY seq";
    let parked: Vec<(String, String, i64, String)> =
        sqlx::query_as(parked).fetch_all(&stage.pool).await.unwrap();
    let parked: Vec<_> = parked.iter().map(|row| (row.0.as_str(), row.1.as_str(), row.2)).collect();
    assert_eq!(parked, [("one", "poison", 1), ("two", "behind", 0), ("three", "behind", 0)]);
}

#[tokio::test]
async fn what_cannot_be_routed_is_parked_with_a_reason() {
    let stage = Stage::new().await;
    stage.insert("lost", Some("k"), "topic:nowhere").await;
    stage.insert("odd", Some("l"), "shipping").await;
    stage.insert("fine", Some("m"), "queue:a").await;
    let (stop, running) = stage.start();
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    let reasons = sqlx::query_scalar("SELECT last_error FROM relay_parked ORDER BY seq");
    let reasons: Vec<String> = reasons.fetch_all(&stage.pool).await.unwrap();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains("topic:nowhere") && reasons[0].contains("\"queue:*\""), "{}", reasons[0]);
    assert!(reasons[1].contains("\"shipping\" is neither"), "{}", reasons[1]);
}

#[tokio::test]
async fn after_a_crash_the_unconfirmed_row_comes_again_with_its_id() {
    let stage = Stage::new().await;
    stage.broker.answers("one", [None]);
    stage.insert("one", Some("k"), "queue:a").await;
    let (_, running) = stage.start();
    stage.broker.saw(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let (stop, running) = stage.start();
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    let seen = stage.broker.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].1, seen[1].1);
}

#[tokio::test]
async fn stopping_takes_the_last_answers_and_deletes_what_they_confirm() {
    let stage = Stage::new().await;
    stage.broker.answers("one", [None]);
    stage.insert("one", Some("k"), "queue:a").await;
    let (stop, running) = stage.start();
    stage.broker.saw(1).await;
    assert_eq!(stage.count("outbox").await, 1);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.count("outbox").await, 0);
}

#[tokio::test]
async fn a_second_relay_waits_for_the_first() {
    let stage = Stage::new().await;
    let (stop_first, first) = stage.start();
    stage.insert("one", None, "queue:a").await;
    stage.broker.saw(1).await;
    let (stop_second, second) = stage.start();
    stage.insert("between", None, "queue:a").await;
    stage.broker.saw(2).await;
    stop_first.cancel();
    assert_eq!(first.await.unwrap().confirmed, 2);
    stage.insert("two", None, "queue:a").await;
    stage.broker.saw(3).await;
    stop_second.cancel();
    assert_eq!(second.await.unwrap().confirmed, 1);
}

#[tokio::test]
async fn the_doorbell_wakes_a_relay_that_hardly_polls() {
    let stage = Stage::new().await;
    let hour = Duration::from_secs(3600);
    let relay = stage.relay(Settings { poll_min: hour, idle_poll: hour, ..Settings::default() });
    let (doorbell, stop) = (relay.doorbell(), CancellationToken::new());
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    stage.insert("one", None, "queue:a").await;
    doorbell.ring();
    stage.broker.saw(1).await;
    stage.insert("two", None, "queue:a").await;
    doorbell.ring();
    stage.broker.saw(2).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sql_queue_as_the_broker() {
    let stage = Stage::new().await;
    let queue = SqlQueue::new(stage.pool.clone());
    queue.declare(&Inbox::new("a").topic("t")).await.unwrap();
    for at in 0..50 {
        let destination = if at % 2 == 0 { "queue:a" } else { "topic:t" };
        stage.insert("m", Some(&(at % 3).to_string()), destination).await;
    }
    let relay = Relay::builder(Arc::new(SqliteSource::new("main", stage.pool.clone())))
        .sink(Sink::new("queues", Arc::new(queue)))
        .route("*", "queues", Order::Strict)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(stage.count("queue_message").await, 50);
}

#[tokio::test]
async fn everything_that_does_not_fit_is_said_at_once() {
    let pool = SqlitePool::connect_lazy("sqlite::memory:").unwrap();
    let source = Arc::new(SqliteSource::new("main", pool));
    let built = Relay::builder(source).route("orders", "nobody", Order::Strict).build();
    let problems = built.unwrap_err().problems;
    assert_eq!(problems.len(), 3, "{problems:#?}");
}
