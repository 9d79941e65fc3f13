//! The contract of a transport as a bus sees it, on the transport in memory. The conformance suites have it for all others.

use std::time::Duration;

use barid::{
    Context, Destination, Error, Memory, Message, Outgoing, Result, Sender, Transport, headers,
    transport::{Delivery, Inbox},
};
use uuid::Uuid;

use crate::stage::{BUS, Place, Placed, bus, delivery};

async fn send(network: &Memory, id: i64) {
    let sender = Sender::connect(network, "test").await.unwrap();
    let to = Destination::queue(BUS).unwrap();
    sender.send(Outgoing::new(Place { id }).to(to)).await.unwrap();
}

async fn receive(network: &Memory, queue: &str) -> Option<Delivery> {
    let mut consumer = network.consumer(&Inbox::new(queue)).await.unwrap();
    tokio::time::timeout(Duration::from_millis(50), consumer.receive()).await.ok().map(Result::unwrap)
}

#[tokio::test]
async fn what_was_sent_is_received_once_and_nothing_else() {
    let network = Memory::new();
    network.declare(&Inbox::new(BUS)).await.unwrap();
    assert!(receive(&network, BUS).await.is_none());
    send(&network, 1).await;
    send(&network, 2).await;
    let mut received = Vec::new();
    while let Some(delivery) = receive(&network, BUS).await {
        assert_eq!(delivery.headers.get(headers::TYPE), Some(Place::NAME));
        received.push(serde_json::from_slice::<Place>(&delivery.body).unwrap().id);
        delivery.settlement.ack().await.unwrap();
    }
    assert_eq!(received, [1, 2]);
}

#[tokio::test]
async fn a_message_that_was_nacked_or_dropped_comes_again_and_an_acknowledged_one_does_not() {
    let network = Memory::new();
    network.declare(&Inbox::new(BUS)).await.unwrap();
    send(&network, 1).await;
    receive(&network, BUS).await.unwrap().settlement.nack(Duration::ZERO).await.unwrap();
    drop(receive(&network, BUS).await.unwrap());
    receive(&network, BUS).await.unwrap().settlement.ack().await.unwrap();
    assert!(receive(&network, BUS).await.is_none());
}

#[tokio::test]
async fn what_a_handler_sends_leaves_with_the_commit_and_not_without() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        cx.publish(Placed { id: cmd.id })?;
        match cmd.id {
            1 => Err(Error::new("the handler fails")),
            2 => Ok(cx.transaction().on_commit(async || Err(Error::new("the commit fails")))?),
            _ => Ok(()),
        }
    }
    let network = Memory::new();
    network.declare(&Inbox::new("shipping").topic("orders")).await.unwrap();
    let bus = bus(&network).await.handler(place).build().unwrap();
    for (id, waiting) in [(1, 0), (2, 0), (3, 1)] {
        assert_eq!(bus.handle(delivery(Uuid::now_v7(), id)).await.is_ok(), id == 3);
        assert_eq!(network.len("shipping"), waiting, "{id}");
    }
}
