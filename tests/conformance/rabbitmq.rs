//! The RabbitMQ transport against a real broker: what it promises about confirms, order, repeats and lost connections.
//!
//! Needs `BARID_TEST_AMQP_URL`, a broker that may be filled with queues of random names; `tests/run` starts one.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy exempts only the test functions"
)]

#[path = "rabbitmq/support.rs"]
mod support;
#[path = "rabbitmq/waiting.rs"]
mod waiting;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use barid::{
    headers,
    transport::{
        Inbox, Outcome, Repeat, Token, Transport, TransportError,
        rabbitmq::{RabbitMq, Settings},
    },
};
use support::{Proxy, Side, confirm_all, name, row, send, settle_all, url, with_host, with_password};

#[tokio::test]
async fn a_message_arrives_as_it_was_sent() {
    let transport = RabbitMq::connect(&url()).await.unwrap();
    let (queue, topic) = (name("trip"), name("trip-topic"));
    let inbox = Inbox::new(&queue).topic(&topic);
    transport.declare(&inbox).await.unwrap();
    transport.declare(&inbox).await.unwrap(); // again, as at every start
    let mut publisher = transport.publisher().await.unwrap();
    for destination in [format!("queue:{queue}"), format!("topic:{topic}")] {
        let mut sent = row(&destination, "key", 0);
        sent.headers.set("mine", "grüße");
        sent.headers.set(headers::CONTENT_TYPE, "application/json");
        sent.tracingspancontext = Some("00-1-2-01".to_owned());
        assert_eq!(send(&mut *publisher, &sent).await, Outcome::Confirmed);
        let mut consumer = transport.consumer(&inbox).await.unwrap();
        let received = consumer.receive().await.unwrap();
        assert_eq!(received.headers, sent.wire_headers());
        assert_eq!(Some(received.body.clone()), sent.payload);
        assert_eq!((received.source.as_str(), received.repeat), (queue.as_str(), Repeat::First));
        received.settlement.ack().await.unwrap();
        consumer.close().await.unwrap();
    }
    assert_eq!(publisher.close().await, []);
    assert_eq!(Side::open().await.drain(&queue).await, [], "an acknowledged message is gone");
}

#[tokio::test]
async fn rows_of_a_key_arrive_in_order() {
    let queue = name("order");
    let transport = declared(&url(), &queue).await;
    let rows: Vec<_> =
        (0..2_000).map(|n| row(&format!("queue:{queue}"), &format!("k{}", n % 50), n)).collect();
    let mut publisher = transport.publisher().await.unwrap();
    let outcomes = settle_all(&mut *publisher, &rows).await;
    assert!(outcomes.values().all(|outcome| *outcome == Outcome::Confirmed));
    let mut last: HashMap<String, i64> = HashMap::new();
    let stored = Side::open().await.drain(&queue).await;
    assert_eq!(stored.len(), rows.len());
    for message in stored {
        let before = last.insert(message.key.clone(), message.number);
        assert!(before.is_none_or(|before| before < message.number), "{message:?} came after {before:?}");
    }
}

/// lapin hands a return to whichever confirm comes next; with half of the rows returned, that is nearly always another
/// row's. Every row must get its own outcome all the same.
#[tokio::test]
async fn an_unroutable_row_fails_alone() {
    for quorum in [true, false] {
        let (queue, missing) = (name("routable"), name("nobody"));
        let settings = Settings { quorum, window_rows_max: 1_000, ..Settings::new(url()) };
        let transport = RabbitMq::new(settings).unwrap();
        transport.declare(&Inbox::new(&queue)).await.unwrap();
        let bad = |n: i64| n % 7 == 3 || n % 5 == 0;
        let rows: Vec<_> = (0..2_000)
            .map(|n| row(&format!("queue:{}", if bad(n) { &missing } else { &queue }), &format!("k{n}"), n))
            .collect();
        let mut publisher = transport.publisher().await.unwrap();
        for (token, outcome) in settle_all(&mut *publisher, &rows).await {
            match outcome {
                Outcome::Confirmed => assert!(!bad(token.0.cast_signed()), "{token:?} went nowhere"),
                Outcome::Permanent(why) => {
                    assert!(bad(token.0.cast_signed()), "{token:?} had a queue: {why}");
                    assert!(why.contains(&missing), "{why}");
                }
                other => panic!("{token:?}: {other:?}"),
            }
        }
        let good = rows.iter().filter(|row| !bad(row.seq)).count();
        assert_eq!(Side::open().await.drain(&queue).await.len(), good);
    }
}

#[tokio::test]
async fn a_missing_exchange_costs_no_neighbour() {
    let queue = name("neighbours");
    let transport = declared(&url(), &queue).await;
    let missing = name("no-exchange");
    let rows: Vec<_> = (0..300)
        .map(|n| {
            let to = if n % 10 == 9 { format!("topic:{missing}") } else { format!("queue:{queue}") };
            row(&to, &format!("k{n}"), n)
        })
        .collect();
    let mut publisher = transport.publisher().await.unwrap();
    for (token, outcome) in settle_all(&mut *publisher, &rows).await {
        match outcome {
            Outcome::Confirmed => assert_ne!(token.0 % 10, 9),
            Outcome::Permanent(why) => assert!(token.0 % 10 == 9 && why.contains(&missing), "{why}"),
            other => panic!("{token:?}: {other:?}"),
        }
    }
    assert_eq!(Side::open().await.drain(&queue).await.len(), 270);
}

/// The broker lets an internal exchange be looked up, but closes the channel over a publish to it. The same path is
/// taken by an exchange that is deleted under way and by a body above the broker's own limit.
#[tokio::test]
async fn the_row_that_closes_a_channel_is_found() {
    let (queue, internal) = (name("innocent"), name("internal"));
    let side = Side::open().await;
    side.internal_exchange(&internal).await;
    let settings = Settings { channels: 1, ..Settings::new(url()) };
    let transport = RabbitMq::new(settings).unwrap();
    transport.declare(&Inbox::new(&queue)).await.unwrap();
    let rows: Vec<_> = (0..60)
        .map(|n| {
            let to = if n == 30 { format!("topic:{internal}") } else { format!("queue:{queue}") };
            row(&to, "same", n)
        })
        .collect();
    let mut publisher = transport.publisher().await.unwrap();
    let failed = confirm_all(&mut *publisher, &rows).await;
    assert_eq!(failed.len(), 1);
    assert!(failed[&Token(30)].contains("internal"), "{failed:?}");
    let stored: HashSet<i64> = side.drain(&queue).await.into_iter().map(|message| message.number).collect();
    assert_eq!(stored.len(), 59, "every neighbour arrived");
}

#[tokio::test]
async fn an_exchange_deleted_under_load_loses_nothing() {
    let (queue, topic) = (name("stays"), name("goes"));
    let transport = RabbitMq::connect(&url()).await.unwrap();
    let side = Side::open().await;
    transport.declare(&Inbox::new(&queue).topic(&topic)).await.unwrap();
    let mut publisher = transport.publisher().await.unwrap();
    assert_eq!(send(&mut *publisher, &row(&format!("topic:{topic}"), "k", 0)).await, Outcome::Confirmed);
    side.delete_exchange(&topic).await;
    let rows: Vec<_> = (1..201)
        .map(|n| {
            let to = if n % 20 == 0 { format!("topic:{topic}") } else { format!("queue:{queue}") };
            row(&to, &format!("k{n}"), n)
        })
        .collect();
    let failed = confirm_all(&mut *publisher, &rows).await;
    assert_eq!(failed.len(), 10, "{failed:?}");
    assert!(failed.iter().all(|(token, why)| token.0 % 20 == 0 && why.contains(&topic)), "{failed:?}");
    let stored: HashSet<i64> = side.drain(&queue).await.into_iter().map(|message| message.number).collect();
    assert_eq!(stored.len(), 191);
}

#[tokio::test]
async fn connections_killed_under_load_lose_nothing() {
    let queue = name("killed");
    let proxy = Proxy::start().await;
    let transport = declared(&with_host(&proxy.address()), &queue).await;
    let rows: Vec<_> =
        (0..5_000).map(|n| row(&format!("queue:{queue}"), &format!("k{}", n % 100), n)).collect();
    let mut publisher = transport.publisher().await.unwrap();
    let mut todo: Vec<usize> = (0..rows.len()).rev().collect();
    let (mut flying, mut confirmed, mut unknown) = (HashSet::new(), HashSet::new(), 0);
    let mut cuts = vec![3_500, 2_000, 600];
    while confirmed.len() < rows.len() {
        while let Some(at) = todo.pop() {
            if publisher.submit(&rows[at], Token(at as u64)).is_err() {
                todo.push(at);
                break;
            }
            flying.insert(at);
        }
        for (Token(at), outcome) in publisher.settled().await {
            let at = usize::try_from(at).unwrap();
            assert!(flying.remove(&at), "row {at} settled twice");
            match outcome {
                Outcome::Confirmed => assert!(confirmed.insert(at)),
                Outcome::Unknown(_) => {
                    unknown += 1;
                    todo.push(at);
                }
                Outcome::Transient(_) => todo.push(at),
                Outcome::Permanent(why) => panic!("row {at}: {why}"),
            }
        }
        if cuts.last().is_some_and(|at| confirmed.len() >= *at) {
            cuts.pop();
            proxy.cut();
        }
    }
    assert!(cuts.is_empty() && unknown > 0, "the connection was cut under load");
    let stored = Side::open().await.drain(&queue).await;
    let ids: HashSet<_> = stored.iter().map(|message| message.id).collect();
    assert!(rows.iter().all(|row| ids.contains(&row.id)), "a confirmed row is missing");
    assert!(stored.len() - ids.len() <= unknown, "more duplicates than unknown outcomes");
}

/// A broker that hangs with its connections open: confirms stop, and nothing tells us why.
#[tokio::test]
async fn a_silent_broker_makes_rows_unknown() {
    let queue = name("silent");
    let proxy = Proxy::start().await;
    let settings = Settings {
        confirm_timeout: Duration::from_millis(300),
        call_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_secs(2),
        ..Settings::new(with_host(&proxy.address()))
    };
    let transport = RabbitMq::new(settings).unwrap();
    transport.declare(&Inbox::new(&queue)).await.unwrap();
    let mut publisher = transport.publisher().await.unwrap();
    proxy.stall(true);
    let first = row(&format!("queue:{queue}"), "k", 0);
    let outcome = send(&mut *publisher, &first).await;
    assert!(matches!(&outcome, Outcome::Unknown(why) if why.contains("no confirm")), "{outcome:?}");
    proxy.stall(false);
    assert_eq!(confirm_all(&mut *publisher, &[first]).await, HashMap::new());
}

#[tokio::test]
async fn without_a_connection_rows_are_transient_at_the_pace_of_reconnects() {
    let queue = name("gone");
    let proxy = Proxy::start().await;
    let transport = declared(&with_host(&proxy.address()), &queue).await;
    let mut publisher = transport.publisher().await.unwrap();
    let first = row(&format!("queue:{queue}"), "k", 0);
    assert_eq!(send(&mut *publisher, &first).await, Outcome::Confirmed);
    proxy.refuse(true);
    proxy.cut();
    let mut outcomes = 0;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        assert_ne!(send(&mut *publisher, &first).await, Outcome::Confirmed);
        outcomes += 1;
    }
    assert!(outcomes < 10, "{outcomes} outcomes in a second: a caller that sends again would spin");
    proxy.refuse(false);
    assert_eq!(confirm_all(&mut *publisher, &[first]).await, HashMap::new());
}

#[tokio::test]
async fn an_idle_publisher_that_is_waited_for_reconnects() {
    let queue = name("idle");
    let proxy = Proxy::start().await;
    let transport = declared(&with_host(&proxy.address()), &queue).await;
    let mut publisher = transport.publisher().await.unwrap();
    // Connections so far: connect's check, declare, publisher.
    proxy.accepted(3).await;
    proxy.cut();
    tokio::select! {
        outcomes = publisher.settled() => panic!("nothing was submitted: {outcomes:?}"),
        () = proxy.accepted(4) => {}
    }
    let first = row(&format!("queue:{queue}"), "k", 0);
    assert_eq!(confirm_all(&mut *publisher, &[first]).await, HashMap::new());
}

#[tokio::test]
async fn what_closing_finds_unsettled_is_settled() {
    let queue = name("close");
    let transport = declared(&url(), &queue).await;
    let mut publisher = transport.publisher().await.unwrap();
    for n in 0..50 {
        publisher.submit(&row(&format!("queue:{queue}"), "k", n), Token(n.cast_unsigned())).unwrap();
    }
    let outcomes = publisher.close().await;
    assert_eq!(outcomes.len(), 50);
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed), "{outcomes:?}");
}

#[tokio::test]
async fn a_full_window_and_a_large_body_are_told_apart() {
    let queue = name("window");
    let settings = Settings { window_rows_max: 2, body_bytes_max: 100, ..Settings::new(url()) };
    let transport = RabbitMq::new(settings).unwrap();
    transport.declare(&Inbox::new(&queue)).await.unwrap();
    let mut publisher = transport.publisher().await.unwrap();
    let small = row(&format!("queue:{queue}"), "k", 0);
    let mut large = small.clone();
    large.payload = Some(vec![b'x'; 101].into());
    assert!(publisher.submit(&large, Token(1)).is_ok());
    assert!(publisher.submit(&small, Token(2)).is_ok());
    assert!(publisher.submit(&small, Token(3)).is_err());
    let outcomes = publisher.settled().await;
    assert!(matches!(&outcomes[..], [(Token(1), Outcome::Permanent(why)), ..] if why.contains("101 bytes")));
}

#[tokio::test]
async fn a_message_that_was_not_acknowledged_comes_again_as_repeat() {
    let queue = name("repeat");
    let transport = declared(&url(), &queue).await;
    let mut publisher = transport.publisher().await.unwrap();
    let sent = row(&format!("queue:{queue}"), "k", 0);
    assert_eq!(send(&mut *publisher, &sent).await, Outcome::Confirmed);
    let mut consumer = transport.consumer(&Inbox::new(&queue)).await.unwrap();
    let first = consumer.receive().await.unwrap();
    assert_eq!(first.repeat, Repeat::First);
    first.settlement.nack(Duration::ZERO).await.unwrap();
    let again = consumer.receive().await.unwrap();
    assert_eq!(again.repeat, Repeat::Possible);
    // A delivery outlives its consumer.
    consumer.close().await.unwrap();
    again.settlement.ack().await.unwrap();
    assert_eq!(Side::open().await.drain(&queue).await, []);
}

#[tokio::test]
async fn a_consumer_reports_a_loss_once_and_comes_back() {
    let queue = name("lost");
    let proxy = Proxy::start().await;
    let transport = declared(&with_host(&proxy.address()), &queue).await;
    let direct = RabbitMq::connect(&url()).await.unwrap();
    let mut publisher = direct.publisher().await.unwrap();
    let sent = row(&format!("queue:{queue}"), "k", 0);
    assert_eq!(send(&mut *publisher, &sent).await, Outcome::Confirmed);
    let mut consumer = transport.consumer(&Inbox::new(&queue)).await.unwrap();
    let held = consumer.receive().await.unwrap();
    proxy.cut();
    let lost = consumer.receive().await.unwrap_err();
    assert!(matches!(lost, TransportError::Lost { .. }), "{lost:?}");
    let late = held.settlement.ack().await.unwrap_err();
    assert!(matches!(late, TransportError::Lost { .. }), "{late:?}");
    let again = consumer.receive().await.unwrap();
    assert_eq!(again.repeat, Repeat::Possible);
    again.settlement.ack().await.unwrap();

    Side::open().await.delete_queue(&queue).await;
    let cancelled = consumer.receive().await.unwrap_err();
    assert!(
        matches!(&cancelled, TransportError::Lost { cause, .. } if cause.contains(&queue)),
        "{cancelled:?}"
    );
    transport.declare(&Inbox::new(&queue)).await.unwrap();
    assert_eq!(send(&mut *publisher, &sent).await, Outcome::Confirmed);
    assert_eq!(consumer.receive().await.unwrap().repeat, Repeat::First);
}

#[tokio::test]
async fn errors_say_what_to_do_and_never_the_password() {
    let denied = RabbitMq::connect(&with_password("s3cret-and-wrong")).await.unwrap_err();
    assert!(matches!(denied, TransportError::Refused { .. }), "{denied:?}");
    assert!(!format!("{denied} {denied:?}").contains("s3cret"), "{denied:?}");

    let nobody = RabbitMq::connect("amqp://u:s3cret@127.0.0.1:1/%2f").await.unwrap_err();
    assert!(matches!(nobody, TransportError::Unreachable { .. }), "{nobody:?}");
    assert!(!format!("{nobody} {nobody:?}").contains("s3cret"), "{nobody:?}");

    let queue = name("mismatch");
    let transport = declared(&url(), &queue).await;
    let classic = RabbitMq::new(Settings { quorum: false, ..Settings::new(url()) }).unwrap();
    let mismatch = classic.declare(&Inbox::new(&queue)).await.unwrap_err();
    let text = mismatch.to_string();
    assert!(matches!(mismatch, TransportError::Misconfigured { .. }), "{text}");
    assert!(["x-queue-type", &queue, "quorum = true"].iter().all(|word| text.contains(*word)), "{text}");

    let unknown = transport.consumer(&Inbox::new(name("undeclared"))).await.map(drop).unwrap_err();
    assert!(matches!(unknown, TransportError::Misconfigured { .. }), "{unknown:?}");
}

async fn declared(url: &str, queue: &str) -> RabbitMq {
    let transport = RabbitMq::connect(url).await.unwrap();
    transport.declare(&Inbox::new(queue)).await.unwrap();
    transport
}
