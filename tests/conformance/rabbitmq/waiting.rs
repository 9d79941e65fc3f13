//! Messages that come again later, and queues that give messages up by themselves.

use std::time::{Duration, Instant};

use barid::transport::{
    Inbox, Outcome, Repeat, Transport, TransportError,
    rabbitmq::{RabbitMq, Settings},
};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use crate::support::{Side, name, row, send, url};

#[tokio::test]
async fn a_message_waits_outside_the_window_and_comes_back_as_a_repeat() {
    for quorum in [true, false] {
        let queue = name("wait");
        let transport = RabbitMq::new(Settings { quorum, ..Settings::new(url()) }).unwrap();
        let inbox = Inbox { prefetch: 1, ..Inbox::new(&queue) };
        transport.declare(&inbox).await.unwrap();
        let mut publisher = transport.publisher().await.unwrap();
        let destination = format!("queue:{queue}");
        let (late, other) = (row(&destination, "k", 0), row(&destination, "k", 1));
        assert_eq!(send(&mut *publisher, &late).await, Outcome::Confirmed);
        let mut consumer = transport.consumer(&inbox).await.unwrap();
        let first = consumer.receive().await.unwrap();
        assert_eq!(first.repeat, Repeat::First);
        let (wait, began) = (Duration::from_millis(2_500), Instant::now());
        first.settlement.nack(wait).await.unwrap();

        // The window is one message wide.
        assert_eq!(send(&mut *publisher, &other).await, Outcome::Confirmed);
        let between = consumer.receive().await.unwrap();
        assert_eq!(between.headers, other.wire_headers(), "quorum: {quorum}");
        between.settlement.ack().await.unwrap();

        let again = consumer.receive().await.unwrap();
        assert!(began.elapsed() >= wait, "quorum: {quorum}: after {:?}", began.elapsed());
        assert_eq!(again.repeat, Repeat::Possible);
        assert_eq!(again.body, late.payload.clone().unwrap());
        for (header, value) in late.wire_headers().iter() {
            assert_eq!(again.headers.get(header), Some(value), "quorum: {quorum}: {header}");
        }
        again.settlement.ack().await.unwrap();
        consumer.close().await.unwrap();
        let side = Side::open().await;
        for queue in [format!("{queue}.wait-4s"), queue] {
            assert_eq!(side.drain(&queue).await, []);
        }
    }
}

/// Makes a quorum queue as somebody else would.
async fn declare(queue: &str, limit: Option<i32>) -> Connection {
    let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    if let Some(limit) = limit {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    connection
}

#[tokio::test]
async fn a_queue_that_gives_up_before_the_bus_is_refused_with_both_numbers() {
    let transport = RabbitMq::connect(&url()).await.unwrap();
    for (limit, attempts_max, taken) in
        [(None, 20, true), (None, 21, false), (Some(5), 5, true), (Some(5), 6, false), (Some(300), 100, true)]
    {
        let queue = name("limit");
        let foreign = declare(&queue, limit).await;
        let inbox = Inbox { attempts_max, ..Inbox::new(&queue) };
        let declared = transport.declare(&inbox).await;
        assert_eq!(declared.is_ok(), taken, "{limit:?} for {attempts_max}: {declared:?}");
        if let Err(error) = declared {
            let said = error.to_string();
            assert!(matches!(error, TransportError::Misconfigured { .. }), "{said}");
            let deliveries = limit.unwrap_or(20).to_string();
            for part in [&queue, "x-delivery-limit", &attempts_max.to_string(), &deliveries, "attempts_max"] {
                assert!(said.contains(part), "{part:?} is missing in {said}");
            }
        }
        let channel = foreign.create_channel().await.unwrap();
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_of_ours_drops_nothing_however_often_it_is_delivered() {
    let (queue, transport) = (name("often"), RabbitMq::connect(&url()).await.unwrap());
    let inbox = Inbox { attempts_max: 1_000, ..Inbox::new(&queue) };
    transport.declare(&inbox).await.unwrap();
    transport.declare(&inbox).await.unwrap();
    let mut publisher = transport.publisher().await.unwrap();
    let sent = row(&format!("queue:{queue}"), "k", 0);
    assert_eq!(send(&mut *publisher, &sent).await, Outcome::Confirmed);
    let mut consumer = transport.consumer(&inbox).await.unwrap();
    for _ in 0..60 {
        consumer.receive().await.unwrap().settlement.nack(Duration::ZERO).await.unwrap();
    }
    consumer.receive().await.unwrap().settlement.ack().await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!(Side::open().await.drain(&queue).await, []);
}
