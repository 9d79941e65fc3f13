//! The receiving half: order, retries, positions, rebalances.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use barid::{
    headers,
    transport::{Delivery, Inbox, Repeat, Transport, TransportError},
};

use super::{body, declared, kafka, next, publish_confirmed, row};

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
