//! Queues that are full: F53 and F54.

use std::{collections::HashSet, sync::Arc};

use barid::{headers, transport::rabbitmq::Settings};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use barid_tests::{ledger::order_breaks, names, outbox::Posted};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

/// F53: a full queue refuses. Rows are sent again until there is room, in order, and none is there twice.
async fn refuses(node: &Node) {
    let rig = node.rig().await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(100).await;
    let full = node.limit("tape", r#"{"max-length":20,"overflow":"reject-publish"}"#);
    let fault = seen(&relay, "F53: the queue was full", "the broker refused the message (nack)", full).await;
    load.more(100).await;
    node.limit("tape", ROOM).await;
    caught_up(&rig).await;
    let ledger = rig.settle(load, relay, 0, vec![fault]).await;
    ledger.assert_promises();
}

/// The same with rows of a key in flight together, on a queue that always has room for a few: some overtake a refused one. That
/// is counted, and nothing is lost.
async fn refuses_some(node: &Node) {
    let rig = node.rig().await;
    // A classic queue decides about each message as it comes; a quorum queue shuts its door for a while.
    let settings = Settings { quorum: false, ..Settings::new(node.server.url.as_str()) };
    let broker = RabbitMq::new(settings).unwrap();
    let mut inbox = Inbox::new(names::unique("full"));
    // What is handed out makes room: one message, so that the queue is full nearly all the time.
    inbox.prefetch = 1;
    broker.declare(&inbox).await.unwrap();
    node.limit("full", r#"{"max-length":3,"overflow":"reject-publish"}"#).await;
    let relay = Relay::builder(source::open::source("load", &rig.outbox.pool))
        .sink(Sink::new("full", Arc::new(broker.clone())))
        .route("*", "full", Order::Pipelined)
        .build()
        .unwrap();
    let (stats, stop) = (relay.stats(), CancellationToken::new());
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    let mut load = rig.load();
    // Few keys, so that rows of a key are in flight together.
    (load.keys, load.destination) = (3, Destination::queue(&inbox.queue).unwrap());
    let load = load.start().await;
    let mut consumer = broker.consumer(&inbox).await.unwrap();
    let mut deliveries: Vec<(Uuid, Posted)> = Vec::new();
    let mut receive = async |deliveries: &mut Vec<_>| {
        let delivery = tokio::time::timeout(PATIENCE, consumer.receive()).await.unwrap().unwrap();
        let id = delivery.headers.get(headers::ID).unwrap().parse().unwrap();
        deliveries.push((id, serde_json::from_slice(&delivery.body).unwrap()));
        delivery.settlement.ack().await.unwrap();
    };
    while stats.borrow().breaks == 0 {
        receive(&mut deliveries).await;
    }
    node.limit("full", ROOM).await;
    load.stop().await;
    let committed: HashSet<Uuid> = rig.outbox.committed().await.into_iter().map(|(id, _)| id).collect();
    let missing = |deliveries: &[(Uuid, Posted)]| {
        let arrived: HashSet<Uuid> = deliveries.iter().map(|(id, _)| *id).collect();
        committed.difference(&arrived).count()
    };
    while missing(&deliveries) > 0 {
        receive(&mut deliveries).await;
    }
    rig.drained().await;
    stop.cancel();
    let counted = running.await.unwrap().unwrap().breaks;
    let breaks = order_breaks(deliveries.iter().map(|(id, posted)| (*id, posted.key, posted.n)));
    assert!(breaks > 0 && counted > 0, "{breaks} deliveries out of order, {counted} counted by the relay");
    rig.outbox.drop_now().await;
}

/// F54: a queue that makes room by dropping what is oldest has confirmed it before. No publisher can know, and none is told;
/// what is lost is lost behind the confirm. That is why the README asks for `reject-publish`.
async fn drops(node: &Node) {
    let rig = node.rig().await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    node.limit("tape", r#"{"max-length":20,"overflow":"drop-head"}"#).await;
    load.more(200).await;
    let fault = Fault::new("F54: the queue dropped its oldest messages", "200 rows for a queue of 20");
    let ledger = rig.settle(load, relay, 0, vec![fault]).await;
    assert!(ledger.lost >= 100, "the checker did not notice\n{ledger}");
    assert_eq!(
        [ledger.phantom, ledger.duplicates, ledger.order_breaks, ledger.left, ledger.parked],
        [0; 5],
        "{ledger}"
    );
}

#[tokio::test]
async fn f53_f54_queues_that_are_full() {
    let node = Node::start("").await;
    refuses(&node).await;
    refuses_some(&node).await;
    drops(&node).await;
}
