//! Subscriptions: one suite for the stores (memory, and SQL on three databases), and one for the transports that keep them
//! themselves.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use barid::{
    Bus, Destination, Headers, Kafka, Memory, MemorySubscriptions, Outgoing, RabbitMq, SqlQueue,
    SqlSubscriptions, SubscriptionStore, Subscriptions,
    store::schema,
    transport::{Consumer, Inbox, Outcome, OutgoingRow, Token, Transport},
};
use barid_tests::{names, servers};
use databases::{Fresh, KINDS, run};
use lapin::{Connection, ConnectionProperties, options};
use uuid::Uuid;

mod databases;

const PATIENCE: Duration = Duration::from_secs(60);

type Store = Arc<dyn SubscriptionStore>;

/// Two views of one store, as two processes have them.
async fn suite(one: Store, two: Store) {
    one.ready().await.unwrap();
    assert!(one.subscribers("orders", 10).await.unwrap().is_empty());
    one.unsubscribe("orders", "nobody").await.unwrap();

    for queue in ["b", "a", "b", "B"] {
        one.subscribe("orders", queue).await.unwrap();
    }
    one.subscribe("Orders", "other").await.unwrap();
    // Names are compared byte by byte, and sorted so.
    assert_eq!(two.subscribers("orders", 10).await.unwrap(), ["B", "a", "b"]);
    assert_eq!(two.subscribers("orders", 2).await.unwrap(), ["B", "a"]);
    assert_eq!(two.subscribers("Orders", 10).await.unwrap(), ["other"]);

    two.unsubscribe("orders", "B").await.unwrap();
    two.unsubscribe("orders", "B").await.unwrap();
    assert_eq!(one.subscribers("orders", 10).await.unwrap(), ["a", "b"]);
    assert_eq!(one.subscribers("Orders", 10).await.unwrap(), ["other"]);
    let long = "x".repeat(barid::limits::NAME_BYTES_MAX);
    one.subscribe(&long, &long).await.unwrap();
    assert_eq!(two.subscribers(&long, 10).await.unwrap(), [long]);

    everybody_at_once(&one, &two).await;
}

/// Sixteen subscribe ten queues each, all the same ones; then half of them unsubscribe half of the queues while others
/// subscribe the other half again.
async fn everybody_at_once(one: &Store, two: &Store) {
    let all = |queues: std::ops::Range<usize>, subscribe: bool, n: usize| {
        let store = Arc::clone(if n.is_multiple_of(2) { one } else { two });
        tokio::spawn(async move {
            for queue in queues {
                let queue = format!("q{queue}");
                if subscribe {
                    store.subscribe("busy", &queue).await.unwrap();
                } else {
                    store.unsubscribe("busy", &queue).await.unwrap();
                }
            }
        })
    };
    let joined = async |tasks: Vec<tokio::task::JoinHandle<()>>| {
        for task in tasks {
            task.await.unwrap();
        }
    };
    joined((0..16).map(|n| all(0..10, true, n)).collect()).await;
    assert_eq!(one.subscribers("busy", 100).await.unwrap().len(), 10);
    joined((0..16).map(|n| if n < 8 { all(0..5, false, n) } else { all(5..10, true, n) }).collect()).await;
    assert_eq!(two.subscribers("busy", 100).await.unwrap(), ["q5", "q6", "q7", "q8", "q9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_subscriptions() {
    let store = MemorySubscriptions::new();
    suite(Arc::new(store.clone()), Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_keeps_subscriptions_and_keeps_them_beyond_its_pool() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let (one, two) = (database.pool().await, database.pool().await);
        let lacking = SqlSubscriptions::new(one.clone()).ready().await.unwrap_err().to_string();
        assert!(lacking.contains("barid-relay schema apply"), "{kind:?}: {lacking}");
        schema::apply(&one).await.unwrap();
        suite(Arc::new(SqlSubscriptions::new(one.clone())), Arc::new(SqlSubscriptions::new(two.clone())))
            .await;
        one.close().await;
        two.close().await;
        let later = database.pool().await;
        let store = SqlSubscriptions::new(later.clone());
        assert_eq!(store.subscribers("orders", 10).await.unwrap(), ["a", "b"], "{kind:?}");

        run(&later, "DROP TABLE subscription").await;
        let said = store.subscribe("orders", "c").await.unwrap_err().to_string();
        assert!(said.contains("subscriptions at ") && said.contains("subscription"), "{kind:?}: {said}");
        assert!(store.subscribers("orders", 10).await.is_err(), "{kind:?}");
        later.close().await;
    }
}

async fn publish(transport: &dyn Transport, destination: Destination, name: &str) {
    let row = OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination,
        aggregatetype: "orders".to_owned(),
        aggregateid: Some("k".to_owned()),
        name: name.to_owned(),
        payload: Some(bytes::Bytes::from_static(b"{}")),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    };
    let mut publisher = transport.publisher().await.unwrap();
    publisher.submit(&row, Token(1)).unwrap();
    let settled = tokio::time::timeout(PATIENCE, publisher.settled()).await.unwrap();
    assert_eq!(settled, [(Token(1), Outcome::Confirmed)], "{name}");
    publisher.close().await;
}

/// The name of the next message.
async fn next(consumer: &mut dyn Consumer) -> String {
    let received = tokio::time::timeout(PATIENCE, consumer.receive()).await.expect("a message arrives");
    let delivery = received.unwrap();
    let name = delivery.headers.get(barid::headers::TYPE).unwrap().to_owned();
    delivery.settlement.ack().await.unwrap();
    name
}

/// A consumer that runs all the time; subscriptions come and go. Returns the names of the queue and the topic.
async fn transports(transport: impl Transport) -> (String, String) {
    let (queue, topic) = (names::unique("subscriber"), names::unique("topic"));
    let (to_queue, to_topic) = (Destination::queue(&*queue).unwrap(), Destination::topic(&*topic).unwrap());
    transport.unsubscribe(&queue, &topic).await.unwrap();
    let inbox = Inbox::new(queue.clone());
    transport.declare(&inbox).await.unwrap();
    // RabbitMQ refuses what no queue gets: there is always another subscriber.
    transport.declare(&Inbox::new(format!("{topic}.other")).topic(topic.clone())).await.unwrap();
    transport.unsubscribe(&queue, &topic).await.unwrap();
    let mut consumer = transport.consumer(&inbox).await.unwrap();

    let (a, b) = tokio::join!(transport.subscribe(&queue, &topic), transport.subscribe(&queue, &topic));
    a.and(b).unwrap();
    transport.subscribe(&queue, &topic).await.unwrap();
    publish(&transport, to_topic.clone(), "event").await;
    assert_eq!(next(consumer.as_mut()).await, "event");
    // Subscribed three times, delivered once: the next message is another one.
    publish(&transport, to_queue.clone(), "after").await;
    assert_eq!(next(consumer.as_mut()).await, "after");

    transport.unsubscribe(&queue, &topic).await.unwrap();
    transport.unsubscribe(&queue, &topic).await.unwrap();
    // On Kafka the members of a group agree on it, which takes a moment.
    let mut seen = BTreeSet::new();
    let mut quiet_rounds = 0;
    for round in 0.. {
        assert!(round < 200, "events still arrive");
        let (event, marker) = (format!("event.{round}"), format!("marker.{round}"));
        publish(&transport, to_topic.clone(), &event).await;
        publish(&transport, to_queue.clone(), &marker).await;
        while !seen.contains(&marker) {
            seen.insert(next(consumer.as_mut()).await);
        }
        quiet_rounds = if seen.contains(&event) { 0 } else { quiet_rounds + 1 };
        if quiet_rounds == 3 {
            break;
        }
    }
    consumer.close().await.unwrap();

    // A second consumer, after the subscription came back.
    transport.subscribe(&queue, &topic).await.unwrap();
    let mut consumer = transport.consumer(&inbox).await.unwrap();
    publish(&transport, to_topic, "again").await;
    let mut names = Vec::new();
    while !names.contains(&"again".to_owned()) {
        names.push(next(consumer.as_mut()).await);
    }
    consumer.close().await.unwrap();
    (queue, topic)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_transport_keeps_subscriptions() {
    transports(Memory::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_queues_keep_subscriptions() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        transports(SqlQueue::new(pool.clone())).await;
        pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_keeps_subscriptions() {
    let (queue, topic) = transports(RabbitMq::connect(&servers::amqp()).await.unwrap()).await;
    let connection = Connection::connect(&servers::amqp(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(queue.into(), options::QueueDeleteOptions::default()).await.unwrap();
    let other = format!("{topic}.other");
    channel.queue_delete(other.into(), options::QueueDeleteOptions::default()).await.unwrap();
    channel.exchange_delete(topic.into(), options::ExchangeDeleteOptions::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_kafka_group_keep_subscriptions() {
    let (queue, topic) = transports(Kafka::connect(servers::kafka()).await.unwrap()).await;
    names::delete_kafka_topic(&queue).await;
    names::delete_kafka_topic(&topic).await;
    names::delete_kafka_topic(&format!("{topic}.other")).await;
}

/// A queue that subscribed and does not exist is an outcome of its own on every transport, never a silent drop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_exist_is_refused_by_every_transport() {
    let database = Fresh::new(databases::Kind::Postgres).await;
    let pool = database.pool().await;
    schema::apply(&pool).await.unwrap();
    let bus = || Bus::builder(names::unique("publisher"));
    let rabbitmq = RabbitMq::connect(&servers::amqp()).await.unwrap();
    let kafka = Kafka::connect(servers::kafka()).await.unwrap();
    let queues = SqlQueue::new(pool.clone());
    for promises in [rabbitmq.promises(), kafka.promises(), queues.promises(), Memory::new().promises()] {
        assert!(promises.refuses_unknown_queues);
    }
    let all = [
        bus().transport(Memory::new()),
        bus().transport(queues),
        bus().transport(rabbitmq),
        bus().transport(kafka),
    ];
    for bus in all {
        let missing = names::unique("missing");
        let store = MemorySubscriptions::new();
        store.subscribe("orders", &missing).await.unwrap();
        let bus = bus.subscriptions(Subscriptions::centralised(store)).send_only().build().unwrap();
        let message = || Outgoing::raw("orders.placed", bytes::Bytes::from_static(b"{}"));
        let to = Destination::queue(&*missing).unwrap();
        for outcome in [bus.publish(message()).await, bus.send(message().to(to)).await] {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains("cannot be delivered") && said.contains(&missing), "{said}");
        }
    }
    pool.close().await;
}
