//! Everything that a broker got, in its order, with marks for the moments of faults.
//!
//! On RabbitMQ a queue that nobody reads until the end; a mark is a confirmed message in it, so what stands behind a mark
//! was not confirmed when the mark was made. On Kafka the topic itself is the tape, in the SQL queue its table, and a mark
//! is where they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use barid::{
    Destination, Outgoing, RabbitMq, Sender, SqlQueue, Transport, headers,
    store::AnyPool,
    transport::{Inbox, rabbitmq::Settings},
};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{eventually, names, servers, sql};

mod kafka;

/// The name of the messages that are marks. Whoever else reads what is on the tape leaves them out.
pub const MARK: &str = "tape.mark";
const BOUND: Duration = Duration::from_secs(100);

/// One copy of a message whose body is the JSON of an `E`.
#[derive(Clone, Debug)]
pub struct Copy<E> {
    /// The message id.
    pub id: Uuid,
    /// What it says.
    pub event: E,
    /// How many marks had been made when the broker got it.
    pub marks: usize,
}

/// What a broker got for one queue or topic.
#[allow(missing_debug_implementations)] // transports have no Debug
pub struct Tape {
    place: Place,
    /// Where messages must be sent to come onto the tape.
    pub destination: Destination,
    /// The lines of a `[sink.NAME]` that publishes there.
    pub sink: String,
}

enum Place {
    RabbitMq { broker: RabbitMq, sender: Box<Sender>, inbox: Inbox, marks: AtomicUsize },
    Kafka { topic: String, marks: Mutex<Vec<Vec<i64>>> },
    Sql { pool: AnyPool, queue: String, marks: Mutex<Vec<i64>> },
}

impl Tape {
    /// A queue of its own on this RabbitMQ.
    ///
    /// # Panics
    /// When the broker cannot be used; so do the others.
    pub async fn rabbitmq(url: &str) -> Self {
        let broker = RabbitMq::connect(url).await.expect("RabbitMQ answers");
        let inbox = Inbox::new(names::unique("tape"));
        let destination = Destination::queue(inbox.queue.as_str()).expect("the name of a queue");
        Self::in_queue(&broker, url, inbox, destination).await
    }

    /// The same on a classic queue, which decides about each message as it comes.
    pub async fn rabbitmq_classic(url: &str) -> Self {
        let settings = Settings { quorum: false, ..Settings::new(url) };
        let broker = RabbitMq::new(settings).expect("the settings of a classic queue");
        let inbox = Inbox::new(names::unique("tape"));
        let destination = Destination::queue(inbox.queue.as_str()).expect("the name of a queue");
        Self::in_queue(&broker, url, inbox, destination).await
    }

    /// A second queue that gets everything of a topic of the RabbitMQ under test.
    ///
    /// The copies in two queues of a topic can differ: RabbitMQ may put a message whose publisher dies before the confirm
    /// into one of them only. It is published again, so nothing is lost.
    pub async fn rabbitmq_topic(broker: &RabbitMq, topic: &str) -> Self {
        let inbox = Inbox::new(names::unique("tape")).topic(topic);
        let destination = Destination::topic(topic).expect("the name of a topic");
        Self::in_queue(broker, &servers::amqp(), inbox, destination).await
    }

    async fn in_queue(broker: &RabbitMq, url: &str, mut inbox: Inbox, destination: Destination) -> Self {
        inbox.prefetch = 1_000;
        broker.declare(&inbox).await.expect("RabbitMQ declares a queue");
        let sender = Box::new(Sender::connect(broker, "tape").await.expect("RabbitMQ takes messages"));
        let place = Place::RabbitMq { broker: broker.clone(), sender, inbox, marks: AtomicUsize::new(0) };
        Self { place, destination, sink: format!("kind = \"rabbitmq\"\nurl = {url:?}") }
    }

    /// A topic of the Kafka under test.
    #[must_use]
    pub fn kafka(topic: &str) -> Self {
        let destination = Destination::topic(topic).expect("the name of a topic");
        let sink = format!("kind = \"kafka\"\nbrokers = {:?}", servers::kafka());
        Self { place: Place::Kafka { topic: topic.to_owned(), marks: Mutex::default() }, destination, sink }
    }

    /// A SQL queue in the database of this address, which has the schema.
    pub async fn sql(url: &str) -> Self {
        let pool = AnyPool::connect(url, 2).await.expect("the database answers");
        let queue = names::unique("tape");
        let inbox = Inbox::new(queue.as_str());
        SqlQueue::new(pool.clone()).declare(&inbox).await.expect("the database declares a queue");
        let destination = Destination::queue(queue.as_str()).expect("the name of a queue");
        let place = Place::Sql { pool, queue, marks: Mutex::default() };
        Self { place, destination, sink: format!("kind = \"sql\"\nurl = {url:?}") }
    }

    /// The same tape for a sink that reaches its broker by another address.
    #[must_use]
    pub fn through(mut self, url: &str) -> Self {
        let kind = self.sink.lines().next().unwrap_or_default().to_owned();
        let key = if matches!(self.place, Place::Kafka { .. }) { "brokers" } else { "url" };
        self.sink = format!("{kind}\n{key} = {url:?}");
        self
    }

    /// Everything that the broker has confirmed by now stands before this mark.
    pub async fn mark(&self) {
        match &self.place {
            Place::RabbitMq { sender, inbox, marks, .. } => {
                let queue = Destination::queue(inbox.queue.as_str()).expect("the name of a queue");
                // Idle, it did not notice when its connection was lost: then the first mark is certainly not taken.
                let confirmed = || async {
                    let sent = sender.send(Outgoing::raw(MARK, None).to(queue.clone())).await;
                    let refused =
                        sent.as_ref().is_err_and(|error| error.to_string().contains("was not taken"));
                    assert!(sent.is_ok() || refused, "RabbitMQ confirms a mark: {sent:?}");
                    sent.is_ok()
                };
                eventually(BOUND, "RabbitMQ confirms a mark", confirmed).await;
                marks.fetch_add(1, Ordering::SeqCst);
            }
            Place::Kafka { topic, marks } => {
                let ends = kafka::ends_of(topic).await;
                marks.lock().await.push(ends);
            }
            Place::Sql { pool, marks, .. } => {
                let end = sql::number(pool, "SELECT COALESCE(MAX(seq), 0) FROM queue_message").await;
                marks.lock().await.push(end.expect("the database says where the queue ends"));
            }
        }
    }

    /// Waits until `bus` has received everything that the topic has for it; `marked` says whether the bus has seen a
    /// [`MARK`].
    ///
    /// # Panics
    /// When it has not after a while, or the tape is a SQL queue.
    pub async fn received_by(&self, bus: &str, marked: impl Fn() -> bool) {
        match &self.place {
            Place::RabbitMq { sender, marks, .. } => {
                let mark = Outgoing::raw(MARK, None).to(self.destination.clone());
                sender.send(mark).await.expect("RabbitMQ confirms a mark");
                marks.fetch_add(1, Ordering::SeqCst);
                eventually(BOUND, "the bus received the last mark", || async { marked() }).await;
            }
            Place::Kafka { topic, .. } => kafka::handled_by(topic, bus).await,
            Place::Sql { .. } => panic!("nobody subscribes to the queue of a SQL tape"),
        }
    }

    /// All of it.
    ///
    /// # Panics
    /// When the broker does not give it back, or a body is no `E`.
    pub async fn read<E: DeserializeOwned + Send + 'static>(self) -> Vec<Copy<E>> {
        self.mark().await;
        match self.place {
            Place::RabbitMq { broker, inbox, marks, .. } => {
                read_queue(&broker, &inbox, marks.into_inner()).await
            }
            Place::Kafka { topic, marks } => kafka::read(topic, marks.into_inner()).await,
            Place::Sql { pool, queue, marks } => {
                let marks = marks.into_inner();
                let rows = sql::queue(&pool, &queue).await.expect("the database gives back a queue");
                let marks = |seq| marks.iter().filter(|end| **end < seq).count();
                rows.into_iter()
                    .map(|(seq, id, body)| Copy { id, event: parsed(&body), marks: marks(seq) })
                    .collect()
            }
        }
    }
}

async fn read_queue<E: DeserializeOwned>(broker: &RabbitMq, inbox: &Inbox, made: usize) -> Vec<Copy<E>> {
    let mut consumer = broker.consumer(inbox).await.expect("RabbitMQ gives out a consumer");
    let (mut copies, mut marks) = (Vec::new(), 0);
    while marks < made {
        let delivery = tokio::time::timeout(BOUND, consumer.receive()).await.expect("the tape has an end");
        let delivery = delivery.expect("RabbitMQ delivers the tape");
        if delivery.headers.get(headers::TYPE) == Some(MARK) {
            marks += 1;
        } else {
            let id = delivery.headers.get(headers::ID).expect("a message has an id");
            let id = id.parse().expect("the id is a UUID");
            copies.push(Copy { id, event: parsed(&delivery.body), marks });
        }
        delivery.settlement.ack().await.expect("RabbitMQ takes an ack");
    }
    consumer.close().await.expect("the consumer closes");
    copies
}

fn parsed<E: DeserializeOwned>(body: &[u8]) -> E {
    serde_json::from_slice(body).unwrap_or_else(|error| {
        panic!("a body on the tape cannot be read: {error}: {:?}", String::from_utf8_lossy(body))
    })
}
