//! The main job on real servers: PostgreSQL, the relay's binary, RabbitMQ or Kafka, MariaDB.
//!
//! An orders bus commits 10,000 orders of 200 shops to PostgreSQL, with their events in the outbox; one order in ten rolls
//! its first attempt back, some commands come twice. The relay publishes and is killed ten times with work in hand. A
//! shipping bus commits one shipment per order to MariaDB, and one shipment in ten rolls back too. In the end a ledger
//! is drawn from the tables and from what the broker had, and says what became of the promises L, P, D, O and E.
//!
//! `BARID_TEST_LONG=1` runs it with twice the orders.

#![allow(clippy::unwrap_used)] // a test

#[path = "end_to_end/arrivals.rs"]
mod arrivals;
#[path = "end_to_end/faults.rs"]
mod faults;
#[path = "end_to_end/ledger.rs"]
mod ledger;
#[path = "end_to_end/orders.rs"]
mod orders;
#[path = "end_to_end/shipping.rs"]
mod shipping;

use std::time::Duration;

use barid::{Kafka, RabbitMq, Transport};
use barid_tests::{Process, eventually, names, servers, tape::Tape};
use tokio_util::sync::CancellationToken;

use self::{
    arrivals::{Arrivals, Recorded},
    ledger::Evidence,
    orders::Orders,
    shipping::Shipping,
};

/// How often the relay is killed.
const KILLS: usize = 10;
/// Rows that the relay may hold between reading and deleting; what a kill can publish twice.
const HELD_MAX: usize = 400;
/// Bounds every wait that ends with an event.
const PATIENCE: Duration = Duration::from_secs(100);
/// The two stories share two cores: one after the other.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_rabbitmq() {
    let _one = ONE_AT_A_TIME.lock().await;
    let topic = names::unique("orders");
    let broker = RabbitMq::connect(&servers::amqp()).await.unwrap();
    let tape = Tape::rabbitmq_topic(&broker, &topic).await;
    Box::pin(story(broker, &topic, tape)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_kafka() {
    let _one = ONE_AT_A_TIME.lock().await;
    let topic = names::kafka_topic("orders", 6).await;
    let broker = Kafka::connect(servers::kafka()).await.unwrap();
    let tape = Tape::kafka(&topic);
    Box::pin(story(broker, &topic, tape)).await;
}

/// Everything from the first command to the ledger.
async fn story(broker: impl Transport, topic: &str, tape: Tape) {
    let began = std::time::Instant::now();
    let orders = Orders::open(if servers::long() { 20_000 } else { 10_000 }).await;
    let shipping = Shipping::open().await;
    let arrivals = Arrivals::default();
    let stop = CancellationToken::new();
    let broker = Recorded::new(broker, arrivals.clone());
    let ships = shipping.start(broker, topic, stop.clone());
    let (takes, refused) = orders.start(topic, stop.clone()).await;

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("relay.toml");
    let text = format!(
        "[source.orders]\nurl = {:?}\nbatch_rows = 100\n\n[sink.broker]\n{}\nwindow_rows_max = 256\n\n\
         [[route]]\ndestination = \"topic:{topic}\"\nsink = \"broker\"\n\n\
         [relay]\nbuffer_rows_max = {HELD_MAX}\ndelete_rows_max = 100\n",
        orders.url(),
        tape.sink
    );
    std::fs::write(&config, text).unwrap();
    let relay = || Process::relay(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);

    let mut kills = Vec::new();
    for _ in 0..KILLS {
        kills.push(faults::kill(relay, &orders, &tape).await);
    }
    println!("{KILLS} kills after {:?}", began.elapsed());
    let last = relay();
    eventually(PATIENCE, "every order was placed", || async { orders.committed().await >= orders.count })
        .await;
    println!("orders placed after {:?}", began.elapsed());
    eventually(PATIENCE, "the outbox is empty", || async { orders.outbox().await.is_empty() }).await;
    println!("outbox empty after {:?}", began.elapsed());
    eventually(PATIENCE, "every order was shipped", || async { shipping.count().await >= orders.count })
        .await;
    println!("shipped after {:?}", began.elapsed());
    let (status, log) = last.terminate(PATIENCE).await;
    assert!(status.success(), "the last relay ended by {status}\n{}", log.join("\n"));

    // What is still under way, duplicates above all, must have arrived before it is counted.
    tape.received_by(&shipping.bus, || arrivals.marked()).await;
    let tape = tape.read().await;
    stop.cancel();
    ships.await.unwrap().unwrap();
    takes.await.unwrap().unwrap();

    let evidence = Evidence {
        ordered: orders.count,
        orders: orders.rows().await,
        orders_tried: orders.tried().await,
        outbox_left: orders.outbox().await.len(),
        parked: orders.parked().await,
        refused: refused(),
        shipments: shipping.rows().await,
        shipments_tried: shipping.tried().await,
        arrivals: arrivals.all(),
        tape,
        kills,
    };
    let ledger = evidence.ledger();
    println!("{ledger}\nafter {:?}", began.elapsed());
    ledger.assert_promises();
    orders.drop_now().await;
    shipping.drop_now().await;
}
