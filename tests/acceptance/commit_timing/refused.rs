//! What is refused because it could not keep its promise: a handler for another database, and sending without an outbox from
//! a bus that skips duplicates.

use std::time::Duration;

use barid::{
    Bus, Context, DuplicatePolicy, Headers, Memory, Message, Result, SqlIdempotency, Transport, UnitGuard,
    headers,
    transport::{Delivery, Inbox, Repeat, Settlement, TransportError},
};
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

use crate::{
    case::{Place, Placed},
    world::World,
};

#[tokio::test]
async fn a_handler_for_another_database_does_not_build() {
    async fn elsewhere(_: Place, _: UnitGuard<Postgres>) -> Result<()> {
        Ok(())
    }
    async fn here(_: Place, _: UnitGuard<Sqlite>) -> Result<()> {
        Ok(())
    }
    let world = World::wal().await;
    let bus = || Bus::builder("orders").transport(Memory::new()).handler(here);
    world.unit_of_work(bus(), None).build().unwrap();
    let error = world.unit_of_work(bus().handler(elsewhere), None).build().unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    let said = error.to_string();
    for part in
        ["BRD014", "elsewhere", "it asks for a unit of work on PostgreSQL, the bus has one on", "Sqlite"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[tokio::test]
async fn sending_without_an_outbox_is_an_error_where_duplicates_are_skipped() {
    async fn send(cmd: Place, cx: Context) -> Result<()> {
        cx.publish(Placed { id: cmd.id })
    }
    for (policy, allowed) in [(DuplicatePolicy::Skip, false), (DuplicatePolicy::Invoke, true)] {
        let (world, network) = (World::wal().await, Memory::new());
        for queue in ["shipping", "dead-letters"] {
            network.declare(&Inbox { topics: vec!["orders".into()], ..Inbox::new(queue) }).await.unwrap();
        }
        let bus = Bus::builder("orders").transport(network.clone()).handler(send);
        let bus = bus.idempotency(SqlIdempotency::new().duplicates(policy));
        let bus = world.unit_of_work(bus, Some(true)).build().unwrap();
        let message = Uuid::now_v7();
        let handled = bus.handle(delivery(message)).await;
        assert_eq!(handled.is_ok(), allowed, "{policy:?}: {handled:?}");
        assert_eq!(world.records(message).await, i64::from(allowed), "{policy:?}");
        if let Err(error) = handled {
            let said = error.to_string();
            assert!(said.contains(".outbox(SqlOutbox::new())") && said.contains("Invoke"), "{said}");
        }
    }
}

fn delivery(message: Uuid) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, message.to_string()),
            (headers::TYPE, Place::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&Place { id: 1 }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(Ignored),
    }
}

/// What the transport is told is another test's matter.
struct Ignored;

#[async_trait::async_trait]
impl Settlement for Ignored {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}
