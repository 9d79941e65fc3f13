//! What is sent arrives, in its order.

use std::time::Duration;

use barid::{
    Headers, headers,
    transport::{Inbox, Repeat, Transport},
};

use super::{
    databases::run,
    place::{body, confirmed, drain, places, receive, row},
};

#[tokio::test]
async fn what_is_sent_arrives_as_it_was() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        let mut sent = row("queue:q", Some("7"), "");
        sent.payload = Some(vec![0_u8, 255, 1, 128].into());
        sent.headers = Headers::from_iter([("tenant", "Zürich \u{1f4ee} \"'\\")]);
        let mut tombstone = row("queue:q", None, "");
        tombstone.payload = None;
        assert!(confirmed(&place.publish(&[sent.clone(), tombstone]).await));

        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.headers, sent.wire_headers(), "{:?}", place.kind);
        assert_eq!(delivery.headers.get(headers::KEY), Some("7"));
        assert_eq!(delivery.body, sent.payload.unwrap());
        assert_eq!((delivery.source.as_str(), delivery.repeat), ("q", Repeat::First));
        delivery.settlement.ack().await.unwrap();

        let delivery = receive(&mut consumer).await;
        assert!(delivery.body.is_empty());
        delivery.settlement.ack().await.unwrap();
        assert_eq!(
            run(&place.pool, "DELETE FROM queue_message").await,
            0,
            "{:?}: acknowledged is gone",
            place.kind
        );
    }
}

#[tokio::test]
async fn a_topic_reaches_every_subscriber_once() {
    for place in places().await {
        // Declared twice, as at every start.
        let mut one = place.consumer(&Inbox::new("one").topic("orders").topic("bills")).await;
        let mut two = place.consumer(&Inbox::new("two").topic("orders")).await;
        place.queue.declare(&Inbox::new("two").topic("orders")).await.unwrap();
        let rows =
            [row("topic:orders", None, "a"), row("topic:bills", None, "b"), row("queue:two", None, "c")];
        assert!(confirmed(&place.publish(&rows).await));
        assert_eq!(drain(&mut one).await, ["a", "b"], "{:?}", place.kind);
        assert_eq!(drain(&mut two).await, ["a", "c"], "{:?}", place.kind);
    }
}

#[tokio::test]
async fn a_key_keeps_its_order_through_nacks_and_holds_up_nobody_else() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        let rows = [
            row("queue:q", Some("a"), "a1"),
            row("queue:q", Some("a"), "a2"),
            row("queue:q", Some("b"), "b1"),
            row("queue:q", None, "n1"),
            row("queue:q", Some("a"), "a3"),
        ];
        assert!(confirmed(&place.publish(&rows).await));
        let mut seen = Vec::new();
        let mut nacked = 0;
        while seen.len() < rows.len() {
            let delivery = receive(&mut consumer).await;
            let text = body(&delivery);
            if text.starts_with('a') && nacked < 4 {
                nacked += 1;
                let expected = if nacked == 1 { Repeat::First } else { Repeat::Possible };
                assert_eq!((text.as_str(), delivery.repeat), ("a1", expected), "{:?}", place.kind);
                delivery.settlement.nack(Duration::from_millis(20)).await.unwrap();
                continue;
            }
            seen.push(text);
            delivery.settlement.ack().await.unwrap();
        }
        let of_a: Vec<_> = seen.iter().filter(|text| text.starts_with('a')).collect();
        assert_eq!(of_a, ["a1", "a2", "a3"], "{:?}: {seen:?}", place.kind);
        assert_eq!(seen[0..2], ["b1", "n1"], "{:?}: other keys went on while a1 was waiting", place.kind);
    }
}

#[tokio::test]
async fn keys_that_cannot_go_on_do_not_hold_up_those_behind_them() {
    const STUCK: usize = 600;
    for place in places().await {
        let mut inbox = Inbox::new("q");
        inbox.prefetch = u16::MAX;
        let mut holder = place.consumer(&inbox).await;
        let key = |n: usize| format!("k{n:04}");
        let stuck: Vec<_> = (0..STUCK).map(|n| row("queue:q", Some(&key(n)), "stuck")).collect();
        assert!(confirmed(&place.publish(&stuck).await));
        let mut held = Vec::new();
        while held.len() < STUCK {
            held.push(receive(&mut holder).await);
        }
        let mut behind: Vec<_> = (0..STUCK).map(|n| row("queue:q", Some(&key(n)), "behind")).collect();
        behind.push(row("queue:q", Some("z"), "free 1"));
        behind.push(row("queue:q", None, "free 2"));
        assert!(confirmed(&place.publish(&behind).await));
        let mut other = place.consumer(&inbox).await;
        let mut free = vec![body(&receive(&mut other).await), body(&receive(&mut other).await)];
        free.sort();
        assert_eq!(free, ["free 1", "free 2"], "{:?}", place.kind);
        held.pop().unwrap().settlement.ack().await.unwrap();
        assert_eq!(body(&receive(&mut other).await), "behind", "{:?}", place.kind);
    }
}

#[tokio::test]
async fn a_nack_waits_as_long_as_it_says() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        assert!(confirmed(&place.publish(&[row("queue:q", None, "1")]).await));
        let first = receive(&mut consumer).await;
        let since = tokio::time::Instant::now();
        first.settlement.nack(Duration::from_millis(400)).await.unwrap();
        let second = receive(&mut consumer).await;
        assert!(since.elapsed() >= Duration::from_millis(395), "{:?}: {:?}", place.kind, since.elapsed());
        assert_eq!(second.repeat, Repeat::Possible);
        second.settlement.ack().await.unwrap();
    }
}
