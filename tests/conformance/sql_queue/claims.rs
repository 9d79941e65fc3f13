//! Messages belong to one consumer at a time.

use std::{collections::BTreeSet, time::Duration};

use barid::transport::{Inbox, Repeat, Transport, TransportError};

use super::{
    databases::run,
    place::{body, confirmed, places, receive, row, within},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn competing_consumers_share_without_overlap_and_keep_the_order_of_keys() {
    const ROWS: usize = 400;
    const KEYS: usize = 10;
    for place in places().await {
        let mut inbox = Inbox::new("q");
        inbox.prefetch = 7;
        place.queue.declare(&inbox).await.unwrap();
        let (seen, mut all) = tokio::sync::mpsc::channel(ROWS * 2);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut consumer = place.queue.consumer(&inbox).await.unwrap();
            let seen = seen.clone();
            tasks.spawn(async move {
                loop {
                    let delivery = consumer.receive().await.unwrap();
                    assert_eq!(delivery.repeat, Repeat::First);
                    seen.send(body(&delivery)).await.unwrap();
                    delivery.settlement.ack().await.unwrap();
                }
            });
        }
        let key = |n: usize| n.is_multiple_of(2).then(|| format!("k{}", n % KEYS));
        let rows: Vec<_> = (0..ROWS).map(|n| row("queue:q", key(n).as_deref(), &format!("{n:04}"))).collect();
        assert!(confirmed(&place.publish(&rows).await));
        let mut bodies = Vec::new();
        while bodies.len() < ROWS {
            bodies.push(within(all.recv()).await.unwrap());
        }
        assert_eq!(bodies.iter().collect::<BTreeSet<_>>().len(), ROWS, "{:?}: one came twice", place.kind);
        for wanted in (0..KEYS).step_by(2) {
            let of_key: Vec<usize> =
                bodies.iter().map(|text| text.parse().unwrap()).filter(|n| n % KEYS == wanted).collect();
            assert!(of_key.is_sorted(), "{:?}: key k{wanted} came as {of_key:?}", place.kind);
        }
        tasks.shutdown().await;
    }
}

#[tokio::test]
async fn an_expired_claim_gives_the_message_to_another_and_cannot_settle_it() {
    for place in places().await {
        let queue = place.queue.clone().lease(Duration::from_secs(1));
        let inbox = Inbox::new("q");
        queue.declare(&inbox).await.unwrap();
        let (mut one, mut two) =
            (queue.consumer(&inbox).await.unwrap(), queue.consumer(&inbox).await.unwrap());
        assert!(confirmed(
            &place.publish(&[row("queue:q", Some("k"), "1"), row("queue:q", Some("k"), "2")]).await
        ));
        drop(receive(&mut one).await);
        drop(one);
        let again = receive(&mut two).await;
        assert_eq!((body(&again).as_str(), again.repeat), ("1", Repeat::Possible), "{:?}", place.kind);

        // The database says that it has expired, whatever this process thinks.
        run(&place.pool, "UPDATE queue_message SET claimed_until = created_at").await;
        let mut three = queue.consumer(&inbox).await.unwrap();
        let newest = receive(&mut three).await;
        assert_eq!(body(&newest), "1");
        let lost = again.settlement.ack().await.unwrap_err();
        assert!(matches!(lost, TransportError::Lost { .. }), "{:?}: {lost}", place.kind);
        newest.settlement.ack().await.unwrap();
        let next = receive(&mut three).await;
        assert_eq!(body(&next), "2");
        next.settlement.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_is_renewed_while_its_delivery_is_unsettled() {
    for place in places().await {
        let queue = place.queue.clone().lease(Duration::from_secs(1));
        let inbox = Inbox::new("q");
        queue.declare(&inbox).await.unwrap();
        let (mut one, mut two) =
            (queue.consumer(&inbox).await.unwrap(), queue.consumer(&inbox).await.unwrap());
        assert!(confirmed(&place.publish(&[row("queue:q", None, "1")]).await));
        let delivery = receive(&mut one).await;
        one.close().await.unwrap();
        let other = tokio::time::timeout(Duration::from_millis(2_500), two.receive()).await;
        assert!(other.is_err(), "{:?}: a live claim was broken", place.kind);
        delivery.settlement.ack().await.unwrap();
    }
}

#[tokio::test]
async fn close_gives_back_what_was_not_handed_out() {
    for place in places().await {
        let inbox = Inbox::new("q");
        let mut one = place.consumer(&inbox).await;
        let rows: Vec<_> = (0..10).map(|n| row("queue:q", None, &n.to_string())).collect();
        assert!(confirmed(&place.publish(&rows).await));
        let first = receive(&mut one).await;
        one.close().await.unwrap();
        let mut two = place.consumer(&inbox).await;
        for n in 1..10 {
            let delivery = receive(&mut two).await;
            assert_eq!(
                (body(&delivery), delivery.repeat),
                (n.to_string(), Repeat::First),
                "{:?}",
                place.kind
            );
            delivery.settlement.ack().await.unwrap();
        }
        // What was handed out can still be settled.
        first.settlement.ack().await.unwrap();
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 0, "{:?}", place.kind);
    }
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        let rows: Vec<_> = (0..100).map(|n| row("queue:q", None, &n.to_string())).collect();
        assert!(confirmed(&place.publish(&rows).await));
        let mut bodies = Vec::new();
        for n in 0_u64.. {
            if bodies.len() == rows.len() {
                break;
            }
            let received = tokio::time::timeout(Duration::from_micros(n % 400), consumer.receive()).await;
            let Ok(delivery) = received else { continue };
            let delivery = delivery.unwrap();
            assert_eq!(delivery.repeat, Repeat::First, "{:?}", place.kind);
            bodies.push(body(&delivery));
            delivery.settlement.ack().await.unwrap();
        }
        let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(bodies, expected, "{:?}", place.kind);
    }
}

#[tokio::test]
async fn the_prefetch_is_a_limit() {
    for place in places().await {
        let mut inbox = Inbox::new("q");
        inbox.prefetch = 2;
        let mut consumer = place.consumer(&inbox).await;
        let rows: Vec<_> = (0..3).map(|n| row("queue:q", None, &n.to_string())).collect();
        assert!(confirmed(&place.publish(&rows).await));
        let (one, two) = (receive(&mut consumer).await, receive(&mut consumer).await);
        let third = tokio::time::timeout(Duration::from_millis(200), consumer.receive()).await;
        assert!(third.is_err(), "{:?}: more than the prefetch was handed out", place.kind);
        one.settlement.ack().await.unwrap();
        assert_eq!(body(&receive(&mut consumer).await), "2");
        two.settlement.ack().await.unwrap();
    }
}
