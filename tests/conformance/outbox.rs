//! The contract of the outbox on the three databases: what handlers and programs put in comes out as it went in, in its order,
//! when the transaction commits, and not at all when it does not.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use barid::{
    Bus, BusBuilder, Context, Destination, Error, Headers, Memory, Message, Outbox, Outgoing, Result,
    SqlOutbox, SqlUnitOfWork, State, Transport, headers,
    store::{AnyPool, Backend, schema},
    transport::{
        Consumer, Delivery, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Repeat, Settlement,
        Token, TransportError,
    },
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use barid_tests::eventually;
use bytes::Bytes;
use databases::{Fresh, KINDS};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, MySql, Pool, Postgres, Sqlite};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[allow(dead_code)] // other suites need more of it
mod databases;

const BOUND: Duration = Duration::from_secs(60);
/// Whoever writes text by hand gets one of these wrong.
const TRICKY: [&str; 8] = [
    "plain",
    "o'clock",
    "back\\slash",
    "\"quoted\"",
    "'; DROP TABLE outbox; --",
    "ünïcödé \u{1F980}",
    "line\nbreak\ttab",
    "%_?$1:name",
];

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.go")]
struct Go {
    fail: bool,
}

/// The messages of a test, without what the pipeline adds.
fn messages() -> Vec<Outgoing> {
    let to = |name: &str| Destination::queue(name).unwrap();
    let text = TRICKY.iter().enumerate().map(|(at, text)| {
        let body = Bytes::from(format!("{{\"text\":{:?},\"at\":{at}}}", text));
        Outgoing::raw("orders.text", body).key(text).aggregate(*text).header("tricky", *text).to(to("text"))
    });
    let sizes = [0, 1, 20_000, 40_000, 300_000].map(|size| {
        let bytes: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0]).collect();
        Outgoing::raw("orders.bytes", Bytes::from(bytes)).to(to("bytes"))
    });
    let tombstone = Outgoing::raw("orders.gone", None).key("gone").to(Destination::topic("orders").unwrap());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = Outgoing::raw("orders.traced", Bytes::from_static(b"x")).header(headers::TRACEPARENT, trace);
    let traced = traced.to(to("traced"));
    text.chain(sizes).chain([tombstone, traced]).enumerate().map(|(at, one)| one.id(id(at))).collect()
}

fn id(at: usize) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + at as u128)
}

/// What came out, compared with what went in.
fn check(rows: &[OutgoingRow], what: &str) {
    assert_eq!(rows.len(), messages().len(), "{what}");
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row.id, id(at), "{what}: row {at} is in its place");
        assert_eq!(row.headers.get(headers::CORRELATION_ID).is_some(), true, "{what}: row {at}");
    }
    for (text, row) in TRICKY.iter().zip(rows) {
        assert_eq!((row.aggregatetype.as_str(), row.aggregateid.as_deref()), (*text, Some(*text)), "{what}");
        assert_eq!((row.headers.get("tricky"), row.name.as_str()), (Some(*text), "orders.text"), "{what}");
        let body = String::from_utf8(row.payload.clone().unwrap().to_vec()).unwrap();
        assert!(body.contains(&format!("{text:?}")), "{what}: {body}");
        assert_eq!(row.destination.to_string(), "queue:text", "{what}");
    }
    for (size, row) in [0, 1, 20_000, 40_000, 300_000].iter().zip(&rows[TRICKY.len()..]) {
        let body = row.payload.as_ref().unwrap();
        let whole =
            body.iter().enumerate().all(|(at, byte)| *byte == u32::try_from(at).unwrap().to_le_bytes()[0]);
        assert!(body.len() == *size && whole && row.aggregateid.is_none(), "{what}: {size} bytes");
    }
    let [.., tombstone, traced] = rows else { panic!("{what}") };
    assert_eq!(
        (&tombstone.payload, tombstone.destination.to_string()),
        (&None, "topic:orders".into()),
        "{what}"
    );
    assert!(traced.tracingspancontext.as_ref().unwrap().starts_with("00-0af7651916cd43dd"), "{what}");
}

/// Everything that leaves the outbox, in order.
async fn drained(pool: &AnyPool, rows: usize) -> Vec<OutgoingRow> {
    let seen = Seen::default();
    let relay = Relay::builder(source::open::source("orders", pool))
        .sink(Sink::new("seen", Arc::new(seen.clone())))
        .route("*", "seen", Order::Strict)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    eventually(BOUND, "all rows leave", async || seen.0.lock().unwrap().len() >= rows).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    std::mem::take(&mut *seen.0.lock().unwrap())
}

fn with_unit(bus: BusBuilder, pool: &AnyPool) -> Bus {
    let bus = bus.outbox(SqlOutbox::new());
    let bus = match pool.clone() {
        AnyPool::Postgres(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
        AnyPool::MySql(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
        AnyPool::Sqlite(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
        _ => unreachable!("there are three databases"),
    };
    bus.build().unwrap()
}

/// Sends what is asked for, and fails afterwards if it shall.
async fn go(cmd: Go, cx: Context, wanted: State<fn() -> Vec<Outgoing>>) -> Result<()> {
    for message in (wanted.0)() {
        cx.publish(message)?;
    }
    if cmd.fail { Err(Error::new("it shall")) } else { Ok(()) }
}

fn delivery(fail: bool) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, Go::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&Go { fail }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(Ignored),
    }
}

async fn each(test: impl AsyncFn(AnyPool, &str)) {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        test(pool.clone(), &format!("{kind:?}")).await;
        pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_sends_comes_out_as_it_went_in() {
    each(async |pool, what| {
        // All at once is too large for one text; one by one they are not, but for the largest.
        let bus = || Bus::builder("orders").transport(Memory::new()).handler(go);
        with_unit(bus().state(messages as fn() -> Vec<Outgoing>), &pool)
            .handle(delivery(false))
            .await
            .unwrap();
        check(&drained(&pool, messages().len()).await, what);
        for at in 0..messages().len() {
            let one = move |cmd: Go, cx: Context| async move {
                assert!(!cmd.fail);
                cx.publish(messages().remove(at))
            };
            let bus = Bus::builder("orders").transport(Memory::new()).handler(one);
            with_unit(bus, &pool).handle(delivery(false)).await.unwrap();
        }
        check(&drained(&pool, messages().len()).await, &format!("{what}, one by one"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_handler_sent_does_not_come_out() {
    each(async |pool, what| {
        let bus = Bus::builder("orders").transport(Memory::new()).handler(go);
        let bus = with_unit(bus.state(messages as fn() -> Vec<Outgoing>), &pool);
        bus.handle(delivery(true)).await.unwrap_err();
        bus.handle(delivery(false)).await.unwrap();
        check(&drained(&pool, messages().len()).await, what);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_of_one_handler_keep_their_order() {
    const MANY: usize = 5_000;
    fn many() -> Vec<Outgoing> {
        let to = Destination::queue("many").unwrap();
        (0..MANY)
            .map(|at| Outgoing::raw("orders.many", Bytes::new()).id(id(at)).key(at % 3).to(to.clone()))
            .collect()
    }
    each(async |pool, what| {
        let bus = Bus::builder("orders").transport(Memory::new()).handler(go);
        with_unit(bus.state(many as fn() -> Vec<Outgoing>), &pool).handle(delivery(false)).await.unwrap();
        let rows = drained(&pool, MANY).await;
        assert_eq!(rows.len(), MANY, "{what}");
        for key in ["0", "1", "2"] {
            let ids: Vec<_> =
                rows.iter().filter(|row| row.aggregateid.as_deref() == Some(key)).map(|row| row.id).collect();
            assert!(ids.is_sorted(), "{what}: key {key}");
        }
    })
    .await;
}

/// In transactions of the caller: one that rolls back, and one that commits.
async fn enqueued<DB: Backend>(pool: &Pool<DB>) {
    let outbox = Outbox::new("web");
    for commit in [false, true] {
        let mut connection = pool.acquire().await.unwrap();
        let mut transaction = Connection::begin(&mut *connection).await.unwrap();
        outbox.enqueue_all::<DB>(&mut transaction, messages()).await.unwrap();
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_enqueues_comes_out_when_its_own_transaction_commits() {
    each(async |pool, what| {
        match &pool {
            AnyPool::Postgres(pool) => enqueued::<Postgres>(pool).await,
            AnyPool::MySql(pool) => enqueued::<MySql>(pool).await,
            AnyPool::Sqlite(pool) => enqueued::<Sqlite>(pool).await,
            _ => unreachable!("there are three databases"),
        }
        check(&drained(&pool, messages().len()).await, what);
    })
    .await;
}

struct Ignored;

#[async_trait]
impl Settlement for Ignored {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}

/// A way for rows into a list.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<OutgoingRow>>>);

struct Writing(Seen, Vec<(Token, Outcome)>);

#[async_trait]
impl Transport for Seen {
    fn promises(&self) -> Promises {
        Memory::new().promises()
    }

    async fn declare(&self, _: &Inbox) -> Result<(), TransportError> {
        Ok(())
    }

    async fn consumer(&self, _: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Err(TransportError::Database("this one only writes down".to_owned()))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(Writing(self.clone(), Vec::new())))
    }
}

#[async_trait]
impl Publisher for Writing {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        self.0.0.lock().unwrap().push(row.clone());
        self.1.push((token, Outcome::Confirmed));
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        if self.1.is_empty() {
            std::future::pending::<()>().await;
        }
        std::mem::take(&mut self.1)
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.1
    }
}
