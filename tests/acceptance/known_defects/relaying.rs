//! The way of the rows: several relays, large backlogs, rows that cannot be delivered, order.

use barid::Sender;
use barid_relay::lane::Order;

use crate::stage::{ORDERS, Running, Stage};

fn rows(first: i64, last: i64, destination: &str, key: &str) -> String {
    format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         SELECT gen_random_uuid(), '{destination}', 'a', {key}, 'm', convert_to(i::text, 'UTF8') \
         FROM generate_series({first}, {last}) i"
    )
}

const OUTBOX: &str = "SELECT count(*) FROM outbox";
const DISTINCT: &str = "SELECT count(DISTINCT id) FROM queue_message WHERE queue = 'orders'";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w01_three_relays_on_one_outbox_deliver_every_row_once() {
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    let relays = [stage.relay(), stage.relay(), stage.relay()];
    for at in 0..5 {
        stage.execute(&rows(at * 100, at * 100 + 99, "topic:t", "NULL")).await;
    }
    stage.becomes(OUTBOX, 0).await;
    for relay in relays {
        relay.stop().await;
    }
    assert_eq!((stage.waiting(ORDERS).await, stage.number(DISTINCT).await), (500, 500));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w08_a_backlog_of_more_rows_than_a_statement_has_parameters_leaves_once() {
    const ROWS: i64 = 33_000;
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    stage.execute(&rows(1, ROWS, "topic:t", "(i % 500)::text")).await;
    let relay = stage.relay();
    stage.becomes(OUTBOX, 0).await;
    relay.stop().await;
    assert_eq!((stage.waiting(ORDERS).await, stage.number(DISTINCT).await), (ROWS, ROWS));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w09_each_message_of_a_transaction_goes_to_its_own_broker() {
    let (stage, other) = (Stage::new().await, Stage::new().await);
    stage.declare("here", &[]).await;
    other.declare("there", &[]).await;
    let both = [rows(1, 1, "queue:here", "NULL"), rows(2, 2, "queue:there", "NULL")];
    stage.execute(&format!("BEGIN; {}; COMMIT", both.join(";"))).await;
    let sink = barid_relay::sink::Sink::new("other", std::sync::Arc::new(other.queue.clone()));
    let relay = stage.relay_builder().sink(sink);
    let relay = relay.route("queue:there", "other", Order::Strict).route("*", "queues", Order::Strict);
    let relay = relay.build().unwrap();
    let relay = Running::new(async move |stop| {
        relay.run_until(stop.cancelled_owned()).await.unwrap();
    });
    stage.becomes(OUTBOX, 0).await;
    relay.stop().await;
    assert_eq!((stage.waiting("here").await, other.waiting("there").await), (1, 1));
    assert_eq!(stage.number("SELECT count(*) FROM relay_parked").await, 0);
    other.end().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w10_a_row_that_cannot_be_delivered_holds_up_nobody_and_is_shown() {
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    stage.execute(&rows(1, 1, "queue:nobody", "'poisoned'")).await;
    stage.execute(&rows(2, 101, "topic:t", "(i % 10)::text")).await;
    let relay = stage.relay();
    stage.becomes(OUTBOX, 0).await;
    relay.stop().await;
    assert_eq!((stage.waiting(ORDERS).await, stage.number(DISTINCT).await), (100, 100));
    let reason = "SELECT count(*) FROM relay_parked WHERE state = 'poison' AND last_error LIKE '%nobody%'";
    assert_eq!(stage.number(reason).await, 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w11_a_delivered_row_is_not_delivered_again_by_the_next_relay() {
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    for delivered in 1..=3 {
        stage.execute(&rows(delivered, delivered, "topic:t", "NULL")).await;
        let relay = stage.relay();
        stage.becomes(OUTBOX, 0).await;
        relay.stop().await;
        assert_eq!(stage.waiting(ORDERS).await, delivered);
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w23_the_messages_of_a_key_arrive_in_the_order_of_their_insertion_across_batches() {
    const ROWS: i64 = 5_000;
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    let relay = stage.relay();
    for first in (1..ROWS).step_by(500) {
        stage.execute(&rows(first, first + 499, "topic:t", "(i % 7)::text")).await;
    }
    stage.becomes(OUTBOX, 0).await;
    relay.stop().await;
    assert_eq!(stage.waiting(ORDERS).await, ROWS);
    let inverted = "SELECT count(*) FROM (SELECT convert_from(body, 'UTF8')::bigint AS n, \
        lag(convert_from(body, 'UTF8')::bigint) OVER (PARTITION BY ordering_key ORDER BY seq) AS earlier \
        FROM queue_message WHERE queue = 'orders') AS pairs WHERE earlier > n";
    assert_eq!(stage.number(inverted).await, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w24_delivered_rows_are_gone_and_failures_leave_a_trace() {
    let stage = Stage::new().await;
    stage.declare(ORDERS, &["t"]).await;
    stage.execute(&rows(1, 50, "topic:t", "NULL")).await;
    stage.execute(&rows(51, 51, "queue:nobody", "NULL")).await;
    let relay = stage.relay();
    stage.becomes(OUTBOX, 0).await;
    relay.stop().await;
    let trace = "SELECT count(*) FROM relay_parked WHERE attempts > 0 AND last_error IS NOT NULL AND \
                 parked_at >= created_at";
    assert_eq!(stage.number(trace).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn w07_sending_outside_a_handler_says_that_nobody_got_it() {
    let stage = Stage::new().await;
    let web = barid::Bus::builder("web").transport(stage.queue.clone()).send_only().build().unwrap();
    let sender = Sender::connect(&stage.queue, "web").await.unwrap();
    let message = || {
        let to = barid::Destination::queue("nobody").unwrap();
        barid::Outgoing::new(crate::stage::Place { id: 1 }).to(to)
    };
    for sent in [sender.send(message()).await, web.send(message()).await, web.publish(message()).await] {
        let said = sent.unwrap_err().to_string();
        assert!(said.contains("cannot be delivered") && said.contains("nobody"), "{said}");
    }
    assert_eq!(stage.number("SELECT count(*) FROM queue_message").await, 0);
    stage.end().await;
}
