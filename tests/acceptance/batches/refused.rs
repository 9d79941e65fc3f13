//! What cannot be provided does not build, and says why.

use barid::{
    BatchPolicy, Bus, BusBuilder, BusConfig, HandWritten, Memory, Message, Result,
    unit_of_work::{CommitError, Unit},
};
use barid_tests::TestDatabase;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct Place;

struct Nothing;

#[async_trait::async_trait]
impl Unit for Nothing {
    async fn commit(&mut self) -> Result<(), CommitError> {
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        Ok(())
    }
}

fn bus() -> BusBuilder {
    Bus::builder("orders").transport(Memory::new()).handler(async |_: Place| Ok(()))
}

fn check(bus: BusBuilder, parts: &[&str]) {
    let said = bus.build().unwrap_err().to_string();
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[tokio::test]
async fn a_unit_of_work_that_holds_one_message() {
    let by_hand = || HandWritten::new(async |_| Ok(Nothing)).commit_with_transaction(true);
    check(bus().unit_of_work(by_hand()).batch(BatchPolicy::of(10)), &["BRD070", "SqlUnitOfWork"]);
    assert!(bus().unit_of_work(by_hand()).batch(BatchPolicy::of(1)).build().is_ok());
    let database = TestDatabase::sqlite().await;
    let unit = || barid::SqlUnitOfWork::new(database.pool.clone());
    let said =
        ["BRD070", "commit_with_transaction is false (code)", "[bus.orders] commit_with_transaction = true"];
    check(bus().unit_of_work(unit().commit_with_transaction(false)).batch(BatchPolicy::of(10)), &said);
    let configured = BusConfig { batch_messages_max: Some(10), ..BusConfig::default() };
    check(
        bus().unit_of_work(unit()).config(configured),
        &["BRD070", "commit_with_transaction is false (default)"],
    );
    assert!(
        bus()
            .unit_of_work(unit().commit_with_transaction(true))
            .batch(BatchPolicy::default())
            .build()
            .is_ok()
    );
    database.drop_now().await;
}

#[test]
fn a_batch_handler_without_batches() {
    let with_handler =
        || Bus::builder("orders").transport(Memory::new()).batch_handler(async |_: Vec<Place>| Ok(()));
    check(with_handler(), &["BRD071", "orders.place", ".batch(BatchPolicy::default())"]);
    assert!(with_handler().batch(BatchPolicy::default()).build().is_ok());
}

#[test]
fn a_batch_outside_the_limits() {
    check(bus().batch(BatchPolicy::of(0)), &["BRD072", "0 messages", "1 to 1000"]);
    check(bus().batch(BatchPolicy::of(1001)), &["BRD072", "1001 messages"]);
    check(bus().batch(BatchPolicy { wait_ms_max: 1001, ..BatchPolicy::default() }), &["BRD072", "1001 ms"]);
}

#[test]
fn the_prefetch_has_room_for_the_next_batch() {
    let settings = bus().prefetch(10).batch(BatchPolicy::of(50)).build().unwrap();
    assert_eq!(settings.settings().batch, Some(BatchPolicy { messages_max: 50, wait_ms_max: 0 }));
    assert!(bus().batch(BatchPolicy::of(1)).build().unwrap().settings().batch.is_none());
}
