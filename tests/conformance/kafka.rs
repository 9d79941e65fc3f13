//! The Kafka transport against a real cluster: `BARID_TEST_KAFKA`, started by `tests/run`.
//!
//! Every test makes its own topics and groups. Nothing waits for a time to pass: each wait ends with the event that it
//! waits for, or fails at a bound.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use barid::{
    Destination, Headers, headers,
    transport::{
        Consumer, Delivery, Inbox, Outcome, OutgoingRow, Publisher, Repeat, Token, Transport, TransportError,
        kafka::{Kafka, Settings},
    },
};
use bytes::Bytes;
use uuid::Uuid;

const BOUND: Duration = Duration::from_secs(60);

fn brokers() -> String {
    std::env::var("BARID_TEST_KAFKA").expect("BARID_TEST_KAFKA is not set: run this through tests/run")
}

fn kafka() -> Kafka {
    Kafka::new(Settings::new(brokers())).unwrap()
}

fn name(what: &str) -> String {
    format!("barid-{what}-{}", Uuid::now_v7().simple())
}

async fn declared(what: &str) -> Inbox {
    let inbox = Inbox::new(name(what));
    kafka().declare(&inbox).await.unwrap();
    inbox
}

fn row(topic: &str, key: Option<&str>, body: Option<&[u8]>) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: Destination::topic(topic).unwrap(),
        aggregatetype: "order".to_owned(),
        aggregateid: key.map(str::to_owned),
        name: "orders.placed".to_owned(),
        payload: body.map(Bytes::copy_from_slice),
        headers: Headers::new(),
        tracingspancontext: None,
    }
}

/// Publishes all rows, whatever the window, and returns every outcome by the row's place.
async fn publish(publisher: &mut dyn Publisher, rows: &[OutgoingRow]) -> BTreeMap<u64, Outcome> {
    let mut outcomes = BTreeMap::new();
    let all = async {
        for (token, row) in (0..).zip(rows) {
            while publisher.submit(row, Token(token)).is_err() {
                collect(&mut outcomes, publisher.settled().await);
            }
        }
        while outcomes.len() < rows.len() {
            collect(&mut outcomes, publisher.settled().await);
        }
    };
    tokio::time::timeout(BOUND, all).await.expect("every row settles");
    outcomes
}

fn collect(outcomes: &mut BTreeMap<u64, Outcome>, more: Vec<(Token, Outcome)>) {
    for (Token(token), outcome) in more {
        assert!(outcomes.insert(token, outcome).is_none(), "row {token} settled twice");
    }
}

async fn publish_confirmed(rows: &[OutgoingRow]) {
    let mut publisher = kafka().publisher().await.unwrap();
    let outcomes = publish(publisher.as_mut(), rows).await;
    assert!(outcomes.values().all(|outcome| *outcome == Outcome::Confirmed), "{outcomes:?}");
    assert!(publisher.close().await.is_empty());
}

async fn next(consumer: &mut dyn Consumer) -> Delivery {
    tokio::time::timeout(BOUND, consumer.receive()).await.expect("a delivery in time").unwrap()
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_keys_and_tombstones_come_back_as_they_went() {
    let inbox = declared("roundtrip").await;
    let mut with_body = row(&inbox.queue, Some("o-1"), Some(b"{\"sku\":\"b\xc3\xbccher\"}"));
    with_body.headers.set(headers::CORRELATION_ID, "c-1");
    with_body.headers.set("tenant", "b\u{fc}cher");
    with_body.tracingspancontext = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let tombstone = row(&inbox.queue, Some("o-1"), None);
    publish_confirmed(&[with_body.clone(), tombstone.clone()]).await;

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    for sent in [with_body, tombstone] {
        let delivery = next(consumer.as_mut()).await;
        assert_eq!(delivery.headers, sent.wire_headers());
        assert_eq!(delivery.body, sent.payload.unwrap_or_default());
        assert_eq!(delivery.source, inbox.queue);
        delivery.settlement.ack().await.unwrap();
    }
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_also_receives_its_topics() {
    let topic = name("events");
    let inbox = Inbox::new(name("queue")).topic(&topic);
    kafka().declare(&inbox).await.unwrap();
    kafka().declare(&inbox).await.unwrap();
    publish_confirmed(&[row(&topic, None, Some(b"event")), row(&inbox.queue, None, Some(b"command"))]).await;
    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let delivery = next(consumer.as_mut()).await;
        seen.insert((delivery.source.clone(), body(&delivery)));
        delivery.settlement.ack().await.unwrap();
    }
    let expected = [(topic, "event".to_owned()), (inbox.queue, "command".to_owned())];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_rows_keep_the_order_of_fifty_keys() {
    let inbox = declared("order").await;
    let rows: Vec<_> = (0..5_000)
        .map(|number: usize| {
            let key = format!("k-{}", number % 50);
            row(&inbox.queue, Some(&key), Some(number.to_string().as_bytes()))
        })
        .collect();
    publish_confirmed(&rows).await;

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let mut last: HashMap<String, usize> = HashMap::new();
    let mut left: HashMap<String, usize> = (0..50).map(|key| (format!("k-{key}"), 100)).collect();
    let mut out: Vec<Delivery> = Vec::new();
    for _ in 0..rows.len() {
        // Several deliveries are out at once, as in a bus; those of one key never are.
        let delivery = next(consumer.as_mut()).await;
        let key = delivery.headers.get(headers::KEY).unwrap().to_owned();
        let number: usize = body(&delivery).parse().unwrap();
        let busy = out.iter().any(|other| other.headers.get(headers::KEY) == Some(key.as_str()));
        assert!(!busy, "two deliveries of {key} at once");
        if let Some(before) = last.insert(key.clone(), number) {
            assert_eq!(before + 50, number, "{key}");
        }
        out.push(delivery);
        *left.get_mut(&key).unwrap() -= 1;
        let others = left.iter().filter(|(key, left)| {
            **left > 0 && !out.iter().any(|busy| busy.headers.get(headers::KEY) == Some(key.as_str()))
        });
        if out.len() == 8 || others.count() == 0 {
            for delivery in out.drain(..).rev() {
                delivery.settlement.ack().await.unwrap();
            }
        }
    }
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_permanent_and_its_neighbours_are_confirmed() {
    let inbox = declared("known").await;
    let unknown = name("unknown");
    let rows: Vec<_> = (0..100)
        .map(|number| {
            let topic = if number % 10 == 3 { unknown.as_str() } else { inbox.queue.as_str() };
            row(topic, Some(&format!("k-{}", number % 4)), Some(b"x"))
        })
        .collect();
    let mut publisher = kafka().publisher().await.unwrap();
    let started = Instant::now();
    let outcomes = publish(publisher.as_mut(), &rows).await;
    assert!(started.elapsed() < Duration::from_secs(10), "it does not wait for the message timeout");
    for (token, outcome) in outcomes {
        match outcome {
            Outcome::Permanent(text) if token % 10 == 3 => assert!(text.contains(&unknown), "{text}"),
            Outcome::Confirmed if token % 10 != 3 => {}
            other => panic!("row {token}: {other:?}"),
        }
    }
    // Once the topic exists, the same publisher finds it.
    kafka().declare(&Inbox::new(&unknown)).await.unwrap();
    let outcomes = publish(publisher.as_mut(), &[row(&unknown, None, Some(b"x"))]).await;
    assert_eq!(outcomes[&0], Outcome::Confirmed);
    assert!(publisher.close().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_is_permanent_whoever_notices() {
    let inbox = declared("large").await;
    let (small, large) = (vec![b'x'; 100], vec![b'x'; 2_000_000]);
    let rows: Vec<_> =
        [&small, &large, &small].into_iter().map(|body| row(&inbox.queue, Some("k"), Some(body))).collect();
    let noticed_by_broker = Settings {
        message_bytes_max: 4_000_000,
        ..Settings::new(brokers()).property("compression.type", "none")
    };
    for settings in [Settings::new(brokers()), noticed_by_broker] {
        let mut publisher = Kafka::new(settings).unwrap().publisher().await.unwrap();
        // One at a time: a batch that the broker refuses takes its neighbours with it.
        for (row, fits) in rows.iter().zip([true, false, true]) {
            let outcome = publish(publisher.as_mut(), std::slice::from_ref(row)).await.remove(&0).unwrap();
            match outcome {
                Outcome::Confirmed if fits => {}
                Outcome::Permanent(text) if !fits => assert!(text.contains("max.message.bytes"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(publisher.close().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nacked_message_comes_again_and_holds_its_key_while_others_flow() {
    let inbox = declared("nack").await;
    let rows = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2"), ("c", "c1")];
    let rows: Vec<_> =
        rows.iter().map(|(key, body)| row(&inbox.queue, Some(key), Some(body.as_bytes()))).collect();
    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    publish_confirmed(&rows).await;

    let wait = Duration::from_secs(2);
    let mut nacked_at = None;
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let delivery = next(consumer.as_mut()).await;
        let (text, repeat) = (body(&delivery), delivery.repeat);
        seen.push(text.clone());
        match (text.as_str(), nacked_at) {
            ("a1", None) => {
                nacked_at = Some(Instant::now());
                delivery.settlement.nack(wait).await.unwrap();
            }
            ("a1", Some(at)) => {
                assert!(at.elapsed() >= wait, "after {:?}", at.elapsed());
                assert_eq!(repeat, Repeat::Possible);
                assert_eq!(seen.len(), 5, "the other keys did not wait: {seen:?}");
                delivery.settlement.ack().await.unwrap();
            }
            _ => delivery.settlement.ack().await.unwrap(),
        }
    }
    assert_eq!(seen[4..], ["a1", "a2"]);
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_reopening_acked_messages_stay_away_and_others_may_be_repeats() {
    let inbox = declared("reopen").await;
    let rows: Vec<_> = (0..40)
        .map(|number| row(&inbox.queue, Some(&format!("k-{number}")), Some(number.to_string().as_bytes())))
        .collect();
    publish_confirmed(&rows).await;

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let (mut acked, mut open) = (BTreeSet::new(), Vec::new());
    for turn in 0..rows.len() {
        let delivery = next(consumer.as_mut()).await;
        if turn < 30 {
            acked.insert(body(&delivery));
            delivery.settlement.ack().await.unwrap();
        } else {
            open.push(delivery);
        }
    }
    let left: BTreeSet<String> = open.iter().map(body).collect();
    drop(open);
    consumer.close().await.unwrap();

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let mut again = BTreeSet::new();
    while !again.is_superset(&left) {
        let delivery = next(consumer.as_mut()).await;
        assert_eq!(delivery.repeat, Repeat::Possible, "{}", body(&delivery));
        assert!(left.contains(&body(&delivery)), "{} was acknowledged", body(&delivery));
        again.insert(body(&delivery));
        delivery.settlement.ack().await.unwrap();
    }
    // What is published from now on is new to everybody, and nothing old comes before it.
    publish_confirmed(&[row(&inbox.queue, Some("new"), Some(b"new"))]).await;
    let delivery = next(consumer.as_mut()).await;
    assert_eq!((body(&delivery).as_str(), delivery.repeat), ("new", Repeat::First));
    delivery.settlement.ack().await.unwrap();
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_after_closing_is_committed_too() {
    let inbox = declared("late").await;
    publish_confirmed(&[row(&inbox.queue, Some("k"), Some(b"1"))]).await;
    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let delivery = next(consumer.as_mut()).await;
    consumer.close().await.unwrap();
    delivery.settlement.ack().await.unwrap();

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    publish_confirmed(&[row(&inbox.queue, Some("k"), Some(b"2"))]).await;
    assert_eq!(body(&next(consumer.as_mut()).await), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_mid_flight_loses_nothing() {
    const ROWS: usize = 2_000;
    let inbox = Inbox { prefetch: 16, ..declared("rebalance").await };
    let rows: Vec<_> = (0..ROWS)
        .map(|number| {
            row(&inbox.queue, Some(&format!("k-{}", number % 60)), Some(number.to_string().as_bytes()))
        })
        .collect();
    publish_confirmed(&rows).await;

    let mut handled: BTreeSet<usize> = BTreeSet::new();
    let mut lost_acks = 0;
    let mut first = kafka().consumer(&inbox).await.unwrap();
    for _ in 0..300 {
        settle(next(first.as_mut()).await, &mut handled, &mut lost_acks).await;
    }
    // Some are out while the second one joins and takes half of the partitions.
    let mut out = Vec::new();
    for _ in 0..10 {
        out.push(next(first.as_mut()).await);
    }
    let mut second = kafka().consumer(&inbox).await.unwrap();
    let from_second = next(second.as_mut()).await;
    for delivery in out {
        settle(delivery, &mut handled, &mut lost_acks).await;
    }
    settle(from_second, &mut handled, &mut lost_acks).await;
    // And the second one leaves again in the middle.
    for _ in 0..50 {
        settle(next(second.as_mut()).await, &mut handled, &mut lost_acks).await;
    }
    second.close().await.unwrap();
    while handled.len() < ROWS {
        settle(next(first.as_mut()).await, &mut handled, &mut lost_acks).await;
    }
    first.close().await.unwrap();
    assert!(lost_acks <= 10, "{lost_acks}");

    // The group's positions agree: nothing that was acknowledged comes again, and nothing is left.
    publish_confirmed(&[row(&inbox.queue, Some("end"), Some(b"999999"))]).await;
    let mut third = kafka().consumer(&inbox).await.unwrap();
    assert_eq!(body(&next(third.as_mut()).await), "999999");
}

/// Counts a message as handled only when its acknowledgement was taken: what was lost must come again.
async fn settle(delivery: Delivery, handled: &mut BTreeSet<usize>, lost_acks: &mut usize) {
    let number = body(&delivery).parse().unwrap();
    match delivery.settlement.ack().await {
        Ok(()) => drop(handled.insert(number)),
        Err(TransportError::Lost { .. }) => *lost_acks += 1,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_bounds_what_is_out() {
    let inbox = Inbox { prefetch: 4, ..declared("prefetch").await };
    let rows: Vec<_> =
        (0..20).map(|number| row(&inbox.queue, None, Some(number.to_string().as_bytes()))).collect();
    publish_confirmed(&rows).await;
    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let mut out = Vec::new();
    for _ in 0..4 {
        out.push(next(consumer.as_mut()).await);
    }
    let fifth = tokio::time::timeout(Duration::from_millis(300), consumer.receive()).await;
    assert!(fifth.is_err(), "a fifth delivery was handed out");
    out.pop().unwrap().settlement.ack().await.unwrap();
    out.push(next(consumer.as_mut()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_credentials_and_topics_are_told_apart() {
    let quick =
        |brokers: &str| Settings { connect_timeout: Duration::from_secs(2), ..Settings::new(brokers) };
    let started = Instant::now();
    let nobody = Kafka::new(quick("127.0.0.1:1")).unwrap();
    let error = nobody.publisher().await.err().unwrap();
    assert!(
        matches!(error, TransportError::Unreachable { .. }) && error.to_string().contains("127.0.0.1:1"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));

    // The listener speaks no SASL, which is one way to be refused; the password is in no message.
    let secret = quick(&brokers())
        .property("security.protocol", "SASL_PLAINTEXT")
        .property("sasl.mechanism", "PLAIN")
        .property("sasl.username", "barid")
        .property("sasl.password", "hunter2");
    let error = Kafka::new(secret).unwrap().publisher().await.err().unwrap();
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));

    let undeclared = Inbox::new(name("undeclared"));
    let error = kafka().consumer(&undeclared).await.err().unwrap();
    assert!(matches!(error, TransportError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains(&undeclared.queue), "{error}");
}
