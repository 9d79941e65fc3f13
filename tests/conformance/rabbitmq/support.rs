//! What the RabbitMQ cases need: rows, a look into the broker past the transport, and a proxy that can be cut.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use barid::{
    Headers,
    headers::KEY,
    transport::{Outcome, OutgoingRow, Publisher, Token},
};
use bytes::Bytes;
use futures::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, ExchangeDeclareOptions,
        ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use url::Url;
use uuid::Uuid;

/// No outcome takes longer than this, whatever is broken.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn url() -> String {
    std::env::var("BARID_TEST_AMQP_URL")
        .expect("set BARID_TEST_AMQP_URL to a RabbitMQ for tests, or start everything with tests/run")
}

pub(crate) fn with_host(address: &SocketAddr) -> String {
    let mut url = Url::parse(&url()).unwrap();
    url.set_host(Some(&address.ip().to_string())).unwrap();
    url.set_port(Some(address.port())).unwrap();
    url.into()
}

pub(crate) fn with_password(password: &str) -> String {
    let mut url = Url::parse(&url()).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

pub(crate) fn name(purpose: &str) -> String {
    format!("barid-test-{purpose}-{}", Uuid::now_v7().simple())
}

pub(crate) fn row(destination: &str, key: &str, number: i64) -> OutgoingRow {
    OutgoingRow {
        seq: number,
        id: Uuid::now_v7(),
        destination: destination.parse().unwrap(),
        aggregatetype: "tests".to_owned(),
        aggregateid: Some(key.to_owned()),
        name: "tests.happened".to_owned(),
        payload: Some(Bytes::from(number.to_string())),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}

/// Sends one row and waits for its outcome.
pub(crate) async fn send(publisher: &mut dyn Publisher, row: &OutgoingRow) -> Outcome {
    publisher.submit(row, Token(9)).unwrap();
    let outcomes = timeout(PATIENCE, publisher.settled()).await.expect("an outcome");
    let [(Token(9), outcome)] = &outcomes[..] else { panic!("not one outcome: {outcomes:?}") };
    outcome.clone()
}

/// Sends every row once; its token is its `seq`.
pub(crate) async fn settle_all(
    publisher: &mut dyn Publisher,
    rows: &[OutgoingRow],
) -> HashMap<Token, Outcome> {
    let mut outcomes = HashMap::new();
    let mut rows = rows.iter();
    let total = rows.len();
    let mut next = rows.next();
    while outcomes.len() < total {
        while let Some(row) = next {
            if publisher.submit(row, Token(row.seq.cast_unsigned())).is_err() {
                break;
            }
            next = rows.next();
        }
        for (token, outcome) in timeout(PATIENCE, publisher.settled()).await.expect("an outcome") {
            assert_eq!(outcomes.insert(token, outcome), None, "{token:?} settled twice");
        }
    }
    outcomes
}

/// Sends rows until each is confirmed or failed for good; returns the failures.
pub(crate) async fn confirm_all(
    publisher: &mut dyn Publisher,
    rows: &[OutgoingRow],
) -> HashMap<Token, String> {
    let mut failed = HashMap::new();
    let mut todo = rows.to_vec();
    while !todo.is_empty() {
        let outcomes = settle_all(publisher, &todo).await;
        todo.retain(|row| match &outcomes[&Token(row.seq.cast_unsigned())] {
            Outcome::Confirmed => false,
            Outcome::Transient(_) | Outcome::Unknown(_) => true,
            Outcome::Permanent(why) => {
                failed.insert(Token(row.seq.cast_unsigned()), why.clone());
                false
            }
        });
    }
    failed
}

/// A stored message, as the broker has it.
#[derive(Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) number: i64,
}

/// A connection beside the transport under test.
pub(crate) struct Side {
    channel: Channel,
    _connection: Connection,
}

impl Side {
    pub(crate) async fn open() -> Self {
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
        Self { channel: connection.create_channel().await.unwrap(), _connection: connection }
    }

    /// Takes everything out of a queue.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<Stored> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared =
            self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
        let count = usize::try_from(declared.message_count()).unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = self
            .channel
            .basic_consume(queue.into(), queue.into(), options, FieldTable::default())
            .await
            .unwrap();
        let all: Vec<_> = consumer.take(count).map(|message| stored(&message.unwrap())).collect().await;
        self.channel.basic_cancel(queue.into(), BasicCancelOptions::default()).await.unwrap();
        let more = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert!(more.is_none(), "the broker counted {count} messages and has more");
        all
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    pub(crate) async fn delete_exchange(&self, exchange: &str) {
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    pub(crate) async fn internal_exchange(&self, exchange: &str) {
        let options = ExchangeDeclareOptions { internal: true, durable: true, ..Default::default() };
        let declared = self.channel.exchange_declare(
            exchange.into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        );
        declared.await.unwrap();
    }
}

fn stored(message: &Delivery) -> Stored {
    let headers = message.properties.headers().as_ref().unwrap().inner();
    let Some(AMQPValue::LongString(key)) = headers.get(KEY) else { panic!("no key: {headers:?}") };
    Stored {
        id: message.properties.message_id().as_ref().unwrap().as_str().parse().unwrap(),
        key: key.to_string(),
        number: std::str::from_utf8(&message.data).unwrap().parse().unwrap(),
    }
}

/// What the proxy does to its connections.
#[derive(Clone, Copy, Default)]
struct Mood {
    generation: u32,
    stalled: bool,
    refusing: bool,
}

/// A TCP proxy in front of the broker that can be cut, stalled and told to refuse.
pub(crate) struct Proxy {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    accepted: watch::Receiver<usize>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let target = Url::parse(&url()).unwrap();
        let target = format!("{}:{}", target.host_str().unwrap(), target.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, moods) = watch::channel(Mood::default());
        let (count, accepted) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !moods.borrow().refusing {
                    count.send_modify(|count| *count += 1);
                    tokio::spawn(carry(near, target.clone(), moods.clone()));
                }
            }
        });
        Self { address, mood, accepted }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `count` connections were taken.
    pub(crate) async fn accepted(&self, count: usize) {
        let mut accepted = self.accepted.clone();
        timeout(PATIENCE, accepted.wait_for(|now| *now >= count)).await.expect("a connection").unwrap();
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.mood.send_modify(|mood| mood.generation += 1);
    }

    /// Stops to carry bytes, or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.mood.send_modify(|mood| mood.stalled = stalled);
    }

    /// Closes new connections at once, or takes them again.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.mood.send_modify(|mood| mood.refusing = refusing);
    }
}

async fn carry(mut near: TcpStream, target: String, mut moods: watch::Receiver<Mood>) {
    let mut far = TcpStream::connect(target).await.unwrap();
    let generation = moods.borrow().generation;
    loop {
        let mood = *moods.borrow_and_update();
        if mood.generation != generation {
            return;
        }
        let (mut near_in, mut near_out) = near.split();
        let (mut far_in, mut far_out) = far.split();
        let carried =
            async { tokio::join!(copy(&mut near_in, &mut far_out), copy(&mut far_in, &mut near_out)) };
        tokio::select! {
            // `copy` keeps nothing between reads and writes that a stall in between could lose here: it is stopped only
            // before anything was sent, or for good.
            _ = carried, if !mood.stalled => return,
            changed = moods.changed() => if changed.is_err() { return },
        }
    }
}
