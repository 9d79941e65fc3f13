//! A queue that is full and refuses: F53.

use std::{collections::HashSet, sync::Arc};

use barid::{
    Destination, RabbitMq, Transport as _, headers,
    transport::{Inbox, rabbitmq::Settings},
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use barid_tests::{ledger::order_breaks, outbox::Posted, rig::PATIENCE};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::node::{Node, caught_up, seen};

/// F53: a full queue refuses. Rows are sent again until there is room, in order, and none is there twice.
#[tokio::test]
async fn f53_a_full_queue_refuses_and_nothing_is_lost() {
    let node = Node::start("").await;
    let rig = node.rig().await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(100).await;
    let limit = r#"{"max-length":20,"overflow":"reject-publish"}"#;
    let full = async { drop(node.ctl(&["set_policy", "full", "tape", limit, "--apply-to", "queues"]).await) };
    let fault = seen(&relay, "F53: the queue was full", "the broker refused the message (nack)", full).await;
    load.more(100).await;
    // A higher limit and not none: a quorum queue that loses its limit does not tell its publishers that it is open again.
    let room = r#"{"max-length":1000000,"overflow":"reject-publish"}"#;
    node.ctl(&["set_policy", "full", "tape", room, "--apply-to", "queues"]).await;
    caught_up(&rig).await;
    let ledger = rig.settle(load, relay, 0, vec![fault]).await;
    ledger.assert_promises();
}

/// The same with rows of a key in flight together, on a queue that always has room for a few: some overtake a refused one. That
/// is counted, and nothing is lost.
#[tokio::test]
async fn f53_pipelined_breaks_of_order_are_counted() {
    let node = Node::start("").await;
    let rig = node.rig().await;
    // A classic queue decides about each message as it comes; a quorum queue shuts its door for a while.
    let settings = Settings { quorum: false, ..Settings::new(node.server.url.as_str()) };
    let broker = RabbitMq::new(settings).unwrap();
    let inbox = Inbox::new(barid_tests::names::unique("full"));
    broker.declare(&inbox).await.unwrap();
    let limit = r#"{"max-length":3,"overflow":"reject-publish"}"#;
    node.ctl(&["set_policy", "full", "full", limit, "--apply-to", "queues"]).await;
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
    node.ctl(&["clear_policy", "full"]).await;
    load.stop().await;
    let committed = rig.outbox.committed().await;
    let arrived = |deliveries: &[(Uuid, Posted)]| {
        let ids: HashSet<Uuid> = deliveries.iter().map(|(id, _)| *id).collect();
        committed.iter().all(|(id, _)| ids.contains(id))
    };
    while !arrived(&deliveries) {
        receive(&mut deliveries).await;
    }
    rig.drained().await;
    stop.cancel();
    let counted = running.await.unwrap().unwrap().breaks;
    let breaks = order_breaks(deliveries.iter().map(|(id, posted)| (*id, posted.key, posted.n)));
    assert!(breaks > 0 && counted > 0, "{breaks} deliveries out of order, {counted} counted by the relay");
    rig.outbox.drop_now().await;
}
