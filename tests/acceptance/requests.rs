//! Requests and their answers over the SQL queue, RabbitMQ and Kafka, and polling for a result.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use barid::{
    Bus, BusError, Context, Destination, Disposition, Error, Kafka, Memory, Message, MessageResult, Outgoing,
    Problem, RabbitMq, Request, RequestError, Result, RetryPolicy, SqlIdempotency, SqlOutbox, SqlQueue,
    SqlUnitOfWork, Transport, headers,
    store::schema,
    transport::{Inbox, kafka},
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use barid_tests::{TestDatabase, names, servers};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "prices.get")]
struct GetPrice {
    sku: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "prices.price")]
struct Price {
    cents: usize,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "prices.other")]
struct Other;

impl Request for GetPrice {
    type Reply = Price;
}

/// The same message, and another idea of its answer.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "prices.get")]
struct GetOther {
    sku: String,
}

impl Request for GetOther {
    type Reply = Other;
}

async fn get_price(request: GetPrice, cx: Context) -> Result<Price> {
    cx.state::<AtomicUsize>().unwrap().fetch_add(1, SeqCst);
    match request.sku.as_str() {
        "gone" => {
            let gone = Problem::new("The article is gone").status(410);
            Err(Error::from(gone).with(Disposition::DeadLetter))
        }
        "never" => Err(Error::new("not now")),
        sku => Ok(Price { cents: sku.len() }),
    }
}

fn tea() -> GetPrice {
    GetPrice { sku: "tea".to_owned() }
}

/// A bus that runs, until it is told not to.
struct Running {
    task: JoinHandle<Result<(), BusError>>,
    stop: CancellationToken,
}

impl Running {
    fn start(bus: &Bus) -> Self {
        let (bus, stop) = (bus.clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        Self { task: tokio::spawn(async move { bus.run_until(stopped).await }), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn answering(transport: impl Transport, name: &str) -> Bus {
    Bus::builder(name)
        .transport(transport)
        .dead_letters(format!("{name}-dead"))
        .retry(RetryPolicy { attempts_max: 2, pause: Duration::from_millis(5), ..RetryPolicy::default() })
        .state(AtomicUsize::new(0))
        .answer(get_price)
        .build()
        .unwrap()
}

fn asking(transport: impl Transport, name: &str, owner: &str) -> Bus {
    let owner = Destination::queue(owner).unwrap();
    Bus::builder(name).transport(transport).send_only().requests().route::<GetPrice>(owner).build().unwrap()
}

/// Everything that does not depend on a broker's leisure.
async fn ask_and_answer<T: Transport + Clone>(transport: T) {
    let (prices, shop) = (names::unique("prices"), names::unique("shop"));
    let answering = || answering(transport.clone(), &prices);
    let asking = asking(transport.clone(), &shop, &prices);
    let at_once = asking.request(tea(), SOON).await;
    assert!(matches!(at_once, Err(RequestError::NotRunning { .. })), "{at_once:?}");

    // Its queue is there before anything is sent to it.
    answering().declare().await.unwrap();
    let (answers, asks) = (Running::start(&answering()), Running::start(&asking));
    tokio::time::timeout(SOON, asking.requests_ready()).await.unwrap().unwrap();
    assert_eq!(asking.request(tea(), SOON).await.unwrap(), Price { cents: 3 });

    // Many at once: everybody gets their own.
    let requests = (1..=40).map(|length| {
        let asking = &asking;
        async move { (length, asking.request(GetPrice { sku: "x".repeat(length) }, SOON).await.unwrap()) }
    });
    for (length, price) in futures::future::join_all(requests).await {
        assert_eq!(price, Price { cents: length });
    }

    let failed = asking.request(GetPrice { sku: "gone".to_owned() }, SOON).await.unwrap_err();
    let RequestError::Failed(problem) = failed else { panic!("{failed:?}") };
    assert_eq!((problem.title.as_str(), problem.status), ("The article is gone", Some(410)));
    let failed = asking.request(GetPrice { sku: "never".to_owned() }, SOON).await.unwrap_err();
    let RequestError::Failed(problem) = failed else { panic!("{failed:?}") };
    assert!(problem.detail.unwrap().contains("not now"));

    let to = Destination::queue(prices.as_str()).unwrap();
    let undecodable = asking.request_to(to, GetOther { sku: "tea".to_owned() }, SOON).await.unwrap_err();
    assert!(undecodable.to_string().contains("prices.price"), "{undecodable}");

    // Nobody answers; the request waits for the next instance, and its answer comes too late.
    answers.end().await;
    let late = asking.request(tea(), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(late, RequestError::Timeout { .. }), "{late}");
    let answers = Running::start(&answering());
    assert_eq!(asking.request(tea(), SOON).await.unwrap(), Price { cents: 3 }, "after a restart");

    // A bus that stops tells those that wait.
    answers.end().await;
    let (waiting, stop) = (asking.request(tea(), SOON), asks.stop.clone());
    let stopped = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    let said = stopped.0.unwrap_err();
    assert!(matches!(said, RequestError::Stopping { .. } | RequestError::Undeliverable(_)), "{said}");
    asks.end().await;
    assert!(matches!(asking.request(tea(), SOON).await, Err(RequestError::NotRunning { .. })));
}

#[tokio::test]
async fn over_the_sql_queue() {
    let database = TestDatabase::sqlite().await;
    schema::apply(&database.pool.clone().into()).await.unwrap();
    ask_and_answer(SqlQueue::new(database.pool.clone())).await;
    let left = "SELECT count(*) FROM queue_declared WHERE queue LIKE '%.replies.%'";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&database.pool).await.unwrap();
    assert_eq!(left, 0, "the reply queue stayed");
    database.drop_now().await;
}

#[tokio::test]
async fn over_rabbitmq() {
    ask_and_answer(RabbitMq::connect(&servers::amqp()).await.unwrap()).await;
}

#[tokio::test]
async fn over_kafka() {
    ask_and_answer(
        Kafka::new(kafka::Settings { partitions: 2, ..kafka::Settings::new(servers::kafka()) }).unwrap(),
    )
    .await;
}

#[tokio::test]
async fn the_reply_queue_of_a_dead_instance_is_removed_by_the_next_one() {
    let database = TestDatabase::sqlite().await;
    schema::apply(&database.pool.clone().into()).await.unwrap();
    let queue = SqlQueue::new(database.pool.clone());
    for dead in ["shop.replies.dead", "shop.replies.living", "other.replies.dead"] {
        queue.declare(&Inbox::temporary(dead)).await.unwrap();
    }
    let long_ago = "UPDATE queue_declared SET declared_at = declared_at - 3600000 WHERE queue LIKE '%.dead'";
    sqlx::query(long_ago).execute(&database.pool).await.unwrap();
    let shop = asking(queue, "shop", "prices");
    let running = Running::start(&shop);
    shop.requests_ready().await.unwrap();
    let left = "SELECT queue FROM queue_declared WHERE queue LIKE '%.replies.%' ORDER BY queue";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_all(&database.pool).await.unwrap();
    assert!(left.len() == 3 && left[0] == "other.replies.dead", "{left:?}");
    assert!(!left.contains(&"shop.replies.dead".to_owned()), "{left:?}");
    running.end().await;
    database.drop_now().await;
}

/// Outbox, relay, idempotency: a request that comes twice has one effect and is answered twice the same, and a result is
/// there to be polled for.
#[tokio::test]
async fn through_the_outbox_a_duplicate_is_answered_again_and_results_can_be_polled_for() {
    let database = TestDatabase::sqlite().await;
    schema::apply(&database.pool.clone().into()).await.unwrap();
    let (queue, handled) = (SqlQueue::new(database.pool.clone()), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&handled);
    let prices = Bus::builder("prices")
        .transport(queue.clone())
        .unit_of_work(SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .retry(RetryPolicy { attempts_max: 2, pause: Duration::from_millis(5), ..RetryPolicy::default() })
        .state(AtomicUsize::new(0))
        .answer(move |request: GetPrice, cx: Context| {
            counted.fetch_add(1, SeqCst);
            get_price(request, cx)
        })
        .build()
        .unwrap();
    let relay = Relay::builder(source::open::source("prices", &database.pool.clone().into()))
        .sink(Sink::new("queues", Arc::new(queue.clone())))
        .route("*", "queues", Order::Strict)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let relaying = tokio::spawn(async move { relay.run_until(stopped).await.map(drop) });
    prices.declare().await.unwrap();
    let bus = Running::start(&prices);

    // A mailbox of our own, to see every answer.
    queue.declare(&Inbox::new("mailbox")).await.unwrap();
    let mut mailbox = queue.consumer(&Inbox::new("mailbox")).await.unwrap();
    let sender = barid::Sender::connect(&queue, "shop").await.unwrap();
    let id = uuid::Uuid::now_v7();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request = Outgoing::new(tea()).id(id).to(Destination::queue("prices").unwrap());
        sender.send(request.header(headers::REPLY_TO, "queue:mailbox")).await.unwrap();
        let answer = tokio::time::timeout(SOON, mailbox.receive()).await.unwrap().unwrap();
        assert_eq!(answer.headers.get(headers::IN_REPLY_TO), Some(id.to_string().as_str()));
        answers.push((answer.headers.get(headers::ID).map(str::to_owned), answer.body.clone()));
        answer.settlement.ack().await.unwrap();
    }
    assert_eq!(answers[0], answers[1], "the duplicate got another answer");
    assert_eq!(handled.load(SeqCst), 1, "the duplicate had an effect");

    let id = prices.submit(tea()).await.unwrap();
    assert!(prices.result(id).await.unwrap().is_some(), "what was accepted is known at once");
    let result = prices.wait_result(id, SOON).await.unwrap().unwrap();
    assert_eq!(prices.decode_result::<Price>(&result).unwrap(), Price { cents: 3 });
    let id = prices.submit(GetPrice { sku: "never".to_owned() }).await.unwrap();
    let Some(MessageResult::Failed { problem }) = prices.wait_result(id, SOON).await.unwrap() else {
        panic!("{id}")
    };
    assert!(problem.detail.unwrap().contains("not now"));
    assert_eq!(prices.wait_result(uuid::Uuid::now_v7(), Duration::from_millis(50)).await.unwrap(), None);

    bus.end().await;
    stop.cancel();
    relaying.await.unwrap().unwrap();
    database.drop_now().await;
}

#[tokio::test]
async fn a_bus_without_requests_says_so() {
    let bus = answering(Memory::new(), "prices");
    let said = bus.request(tea(), SOON).await.unwrap_err();
    assert!(
        matches!(said, RequestError::NotEnabled { .. }) && said.to_string().contains(".requests()"),
        "{said}"
    );
    let said = bus.submit(tea()).await.unwrap_err().to_string();
    assert!(said.contains("commit_with_transaction(true)"), "{said}");
}
