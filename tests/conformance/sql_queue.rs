//! The SQL queue on every database: one suite, the promises of the transport one by one.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{collections::BTreeSet, time::Duration};

use barid::{
    Destination, Headers, headers,
    store::{AnyPool, schema},
    transport::{
        Consumer, Delivery, Full, Inbox, Outcome, OutgoingRow, Publisher, Repeat, Token, Transport,
        TransportError, sql::SqlQueue,
    },
};
use barid_tests::Proxy;
use databases::{Fresh, KINDS, Kind, run};
use uuid::Uuid;

mod databases;

/// Longer than anything here takes when it works.
const PATIENCE: Duration = Duration::from_secs(20);

/// One database with the schema, and its queue.
struct Place {
    kind: Kind,
    pool: AnyPool,
    queue: SqlQueue,
    _database: Fresh,
}

/// Every database that there is a server for.
async fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        places.push(Place { kind, queue: SqlQueue::new(pool.clone()), pool, _database: database });
    }
    places
}

impl Place {
    async fn consumer(&self, inbox: &Inbox) -> Box<dyn Consumer> {
        self.queue.declare(inbox).await.unwrap();
        self.queue.consumer(inbox).await.unwrap()
    }

    /// Publishes `rows` and says what became of each, in order.
    async fn publish(&self, rows: &[OutgoingRow]) -> Vec<Outcome> {
        let mut publisher = self.queue.publisher().await.unwrap();
        publish(publisher.as_mut(), rows).await
    }
}

async fn publish(publisher: &mut dyn Publisher, rows: &[OutgoingRow]) -> Vec<Outcome> {
    let mut outcomes = vec![None; rows.len()];
    let mut next = 0;
    while outcomes.iter().any(Option::is_none) {
        while next < rows.len() && publisher.submit(&rows[next], Token(next as u64)) != Err(Full) {
            next += 1;
        }
        for (token, outcome) in within(publisher.settled()).await {
            let settled = &mut outcomes[usize::try_from(token.0).unwrap()];
            assert!(settled.replace(outcome).is_none(), "{token:?} settled twice");
        }
    }
    outcomes.into_iter().flatten().collect()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn receive(consumer: &mut Box<dyn Consumer>) -> Delivery {
    within(consumer.receive()).await.unwrap()
}

/// What is there now: everything that comes before nothing comes for a while.
async fn drain(consumer: &mut Box<dyn Consumer>) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Ok(delivery) = tokio::time::timeout(Duration::from_millis(300), consumer.receive()).await {
        let delivery = delivery.unwrap();
        bodies.push(body(&delivery));
        delivery.settlement.ack().await.unwrap();
    }
    bodies
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

fn row(to: &str, key: Option<&str>, body: &str) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: to.parse::<Destination>().unwrap(),
        aggregatetype: "orders".to_owned(),
        aggregateid: key.map(str::to_owned),
        name: "orders.placed".to_owned(),
        payload: Some(body.to_owned().into()),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}

fn confirmed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed)
}

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
async fn a_queue_that_nobody_declared_is_refused() {
    for place in places().await {
        place.consumer(&Inbox::new("known")).await;
        let rows =
            [row("queue:known", None, "1"), row("queue:unknown", None, "2"), row("topic:nobody", None, "3")];
        let outcomes = place.publish(&rows).await;
        assert_eq!(outcomes[0], Outcome::Confirmed);
        assert!(
            matches!(&outcomes[1], Outcome::Permanent(why) if why.contains("\"unknown\"")),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2], Outcome::Confirmed, "an event that nobody subscribed to is no error");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 1, "{:?}", place.kind);
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

#[tokio::test]
async fn one_bad_row_does_not_take_the_others_with_it() {
    for place in places().await {
        let mut consumer = place.consumer(&Inbox::new("q")).await;
        let mut bad = row("queue:q", Some("k"), "bad");
        // PostgreSQL has no NUL in text; the others take it.
        bad.headers = Headers::from_iter([("x", "\0")]);
        let outcomes = place.publish(&[row("queue:q", None, "1"), bad, row("queue:q", None, "2")]).await;
        let good: Vec<_> = drain(&mut consumer).await.into_iter().filter(|text| text != "bad").collect();
        assert_eq!(good, ["1", "2"], "{:?}: {outcomes:?}", place.kind);
        if matches!(place.kind, Kind::Postgres) {
            assert!(matches!(outcomes[1], Outcome::Permanent(_)), "{outcomes:?}");
        }
    }
}

#[tokio::test]
async fn the_window_is_bounded_and_close_settles_everything() {
    for place in places().await {
        place.consumer(&Inbox::new("q")).await;
        let mut publisher = place.queue.publisher().await.unwrap();
        let mut taken = 0;
        while publisher.submit(&row("queue:q", None, "x"), Token(taken)) == Ok(()) {
            taken += 1;
            assert!(taken < 10_000, "the window has no end");
        }
        let outcomes = within(publisher.close()).await;
        assert_eq!(outcomes.len() as u64, taken, "{:?}", place.kind);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed));
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, taken);
    }
}

#[tokio::test]
async fn a_database_without_the_tables_says_what_to_run() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let queue = SqlQueue::new(database.pool().await);
        let error = queue.declare(&Inbox::new("q")).await.unwrap_err();
        assert!(
            !error.is_transient() && error.to_string().contains("barid-relay schema apply"),
            "{kind:?}: {error}"
        );
    }
}

#[tokio::test]
async fn without_a_database_rows_settle_as_transient() {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(200))
        .connect_lazy("postgres://u:s3cret@127.0.0.1:1/d")
        .unwrap();
    let mut publisher = SqlQueue::new(pool).publisher().await.unwrap();
    let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "1")]).await;
    assert!(matches!(&outcomes[0], Outcome::Transient(why) if !why.contains("s3cret")), "{outcomes:?}");
}

/// A queue whose answers a proxy can lose, and the same one without it.
async fn behind_a_proxy(kind: Kind) -> (Proxy, SqlQueue, Place) {
    let database = Fresh::new(kind).await;
    let pool = database.pool().await;
    schema::apply(&pool).await.unwrap();
    let (proxy, url) = Proxy::in_front_of(&database.url).await;
    let far = SqlQueue::new(AnyPool::connect(&url, 1).await.unwrap());
    (proxy, far, Place { kind, queue: SqlQueue::new(pool.clone()), pool, _database: database })
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_unknown_and_a_lost_insert_is_not() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let (proxy, far, place) = behind_a_proxy(kind).await;
        place.consumer(&Inbox::new("q")).await;
        let mut publisher = far.publisher().await.unwrap();

        proxy.cut_after_request(b"COMMIT");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "1")]).await;
        assert!(matches!(outcomes[0], Outcome::Unknown(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 1, "{kind:?}: it was committed");

        proxy.cut_before_request(b"COMMIT");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "2")]).await;
        assert!(matches!(outcomes[0], Outcome::Unknown(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 0, "{kind:?}: it was not committed");

        proxy.cut_after_request(b"INSERT INTO queue_message");
        let outcomes = publish(publisher.as_mut(), &[row("queue:q", None, "3")]).await;
        assert!(matches!(outcomes[0], Outcome::Transient(_)), "{kind:?}: {outcomes:?}");
        assert_eq!(run(&place.pool, "DELETE FROM queue_message").await, 0, "{kind:?}: it was not committed");

        // It connects again by itself.
        assert!(confirmed(&publish(publisher.as_mut(), &[row("queue:q", None, "4")]).await), "{kind:?}");
        assert_eq!(proxy.fired().len(), 3);
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_claim_or_an_ack_loses_no_message() {
    // On PostgreSQL these texts travel apart from their execution, so that the proxy cannot tell one from the other.
    for kind in [Kind::MariaDb] {
        let (proxy, far, place) = behind_a_proxy(kind).await;
        let far = far.lease(Duration::from_secs(1));
        let inbox = Inbox::new("q");
        far.declare(&inbox).await.unwrap();
        assert!(confirmed(
            &place.publish(&[row("queue:q", Some("k"), "1"), row("queue:q", Some("k"), "2")]).await
        ));
        let mut consumer = far.consumer(&inbox).await.unwrap();

        proxy.cut_after_request(b"SET claimed_by");
        let lost = within(consumer.receive()).await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        // Nobody knows that the row is claimed, so the claim has to run out.
        let first = receive(&mut consumer).await;
        assert_eq!((body(&first).as_str(), first.repeat), ("1", Repeat::Possible), "{kind:?}");

        proxy.cut_before_request(b"DELETE FROM queue_message");
        let lost = first.settlement.ack().await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        let again = receive(&mut consumer).await;
        assert_eq!(body(&again), "1", "{kind:?}");

        proxy.cut_after_request(b"DELETE FROM queue_message");
        let lost = again.settlement.ack().await.unwrap_err();
        assert!(lost.is_transient(), "{kind:?}: {lost}");
        let second = receive(&mut consumer).await;
        assert_eq!(body(&second), "2", "{kind:?}: the first was deleted although nobody heard of it");
        second.settlement.ack().await.unwrap();
        assert_eq!(proxy.fired().len(), 3);
    }
}
