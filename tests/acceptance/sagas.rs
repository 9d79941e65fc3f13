//! Sagas through real buses, on each database: one saga a value, no lost update, nothing that comes back after its end.

#![allow(clippy::unwrap_used)] // a test

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use barid::{
    Bus, Context, Message, Result, Saga, State,
    saga::{MemorySagas, Missing, Resolution, WhenMissing, by, by_header},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;
use uuid::Uuid;
use world::{Settled, World, delivery, each_world, worlds};

#[path = "sagas/starters.rs"]
mod starters;
#[path = "sagas/timeouts.rs"]
mod timeouts;
#[path = "sagas/world.rs"]
mod world;

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced {
    order: u64,
}

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "payments.received")]
struct Paid {
    order: u64,
}

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "shipping.delivered")]
struct Delivered {
    parcel: String,
}

/// What is known of an order.
#[derive(Default, Debug, Serialize, Deserialize)]
struct Order {
    placed: u32,
    paid: u32,
    delivered: bool,
}

async fn on_placed(_: OrderPlaced, mut order: Saga<Order>) -> Result<()> {
    order.placed += 1;
    Ok(())
}

async fn on_paid(paid: Paid, mut order: Saga<Order>) -> Result<()> {
    order.paid += 1;
    order.correlate("parcel", format!("p{}", paid.order))
}

async fn on_delivered(_: Delivered, mut order: Saga<Order>) -> Result<()> {
    order.delivered = true;
    order.complete();
    Ok(())
}

fn orders() -> barid::saga::Definition<Order> {
    Saga::<Order>::define("orders")
        .starts_with(by("order", |placed: &OrderPlaced| placed.order), on_placed)
        .then(by("order", |paid: &Paid| paid.order), on_paid)
        .then(by("parcel", |delivered: &Delivered| delivered.parcel.clone()), on_delivered)
}

#[tokio::test]
async fn a_saga_lives_through_its_messages_and_stays_completed() {
    for world in worlds().await {
        let bus = world.bus("desk").saga(orders()).build().unwrap();
        bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
        bus.handle(delivery(&Paid { order: 7 })).await.unwrap();
        let state = world.data().await.unwrap();
        assert_eq!(state, r#"{"placed":1,"paid":1,"delivered":false}"#, "{world}");
        // Found by a property that it got on its way.
        bus.handle(delivery(&Delivered { parcel: "p7".into() })).await.unwrap();
        assert_eq!(world.sagas().await, (1, 1), "{world}: one, completed");
        assert_eq!(world.data().await, None, "{world}: a tombstone has no state");
        // No zombie: neither a late message nor a start wakes it up.
        for _ in 0..2 {
            bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
            bus.handle(delivery(&Paid { order: 7 })).await.unwrap();
        }
        assert_eq!(world.sagas().await, (1, 1), "{world}");
        assert_eq!(world.revision().await, 2, "{world}: nothing wrote to the tombstone");
        bus.handle(delivery(&OrderPlaced { order: 8 })).await.unwrap();
        assert_eq!(world.sagas().await, (2, 1), "{world}");
        world.close().await;
    }
}

/// W15: a duplicate touches no saga, not even one that completed; W17: the saga is loaded and saved once.
#[tokio::test]
async fn a_duplicate_touches_no_saga() {
    for world in worlds().await {
        let bus = world.idempotent_bus("desk").saga(orders()).build().unwrap();
        let placed = Uuid::now_v7();
        bus.handle(world::with_id(&OrderPlaced { order: 7 }, placed)).await.unwrap();
        bus.handle(world::with_id(&OrderPlaced { order: 7 }, placed)).await.unwrap();
        assert_eq!(world.revision().await, 0, "{world}");
        bus.handle(delivery(&Paid { order: 7 })).await.unwrap();
        bus.handle(delivery(&Delivered { parcel: "p7".into() })).await.unwrap();
        bus.handle(world::with_id(&OrderPlaced { order: 7 }, placed)).await.unwrap();
        assert_eq!((world.sagas().await, world.revision().await), ((1, 1), 2), "{world}");
        world.close().await;
    }
}

/// W16: another instance finds what the first one left.
#[tokio::test]
async fn sagas_survive_their_bus() {
    for world in worlds().await {
        let first = world.bus("desk").saga(orders()).build().unwrap();
        first.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
        drop(first);
        let second = world.bus("desk").saga(orders()).build().unwrap();
        second.handle(delivery(&Paid { order: 7 })).await.unwrap();
        assert_eq!(world.revision().await, 1, "{world}");
        world.close().await;
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Audit {
    seen: u32,
}

async fn audited(_: OrderPlaced, mut audit: Saga<Audit>) -> Result<()> {
    audit.seen += 1;
    Ok(())
}

async fn plain(_: OrderPlaced, calls: State<AtomicU32>) -> Result<()> {
    calls.0.fetch_add(1, SeqCst);
    Ok(())
}

#[tokio::test]
async fn one_message_concerns_several_sagas_and_a_handler_of_its_own() {
    for world in worlds().await {
        let audit = Saga::<Audit>::define("audit").starts_with(by_header("tenant", "x-tenant"), audited);
        let bus = world
            .bus("desk")
            .state(AtomicU32::new(0))
            .saga(orders())
            .handler(plain)
            .saga(audit)
            .handler(plain)
            .build()
            .unwrap();
        for order in [7, 8] {
            let mut message = delivery(&OrderPlaced { order });
            message.headers.set("x-tenant", "blue");
            bus.handle(message).await.unwrap();
        }
        assert_eq!(world.sagas().await, (3, 0), "{world}: two orders, one tenant");
        assert_eq!(world.data_of("audit").await.unwrap(), r#"{"seen":2}"#, "{world}");
        // A start without a value is nobody's.
        let said = bus.handle(delivery(&OrderPlaced { order: 9 })).await.unwrap_err().to_string();
        assert!(said.contains("\"audit\" and has no value for tenant"), "{said}");
        assert_eq!(world.sagas().await, (3, 0), "{world}: all or nothing");
        world.close().await;
    }
}

async fn fails(_: Paid, mut order: Saga<Order>) -> Result<()> {
    order.paid = 99;
    order.complete();
    Err(barid::Error::new("no"))
}

#[tokio::test]
async fn a_handler_that_fails_changes_no_saga() {
    for world in worlds().await {
        let saga = Saga::<Order>::define("orders")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), on_placed)
            .then(by("order", |paid: &Paid| paid.order), fails);
        let bus = world.bus("desk").saga(saga).build().unwrap();
        bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
        bus.handle(delivery(&Paid { order: 7 })).await.unwrap_err();
        assert_eq!((world.sagas().await, world.revision().await), ((1, 0), 0), "{world}");
        assert_eq!(world.data().await.unwrap(), r#"{"placed":1,"paid":0,"delivered":false}"#, "{world}");
        world.close().await;
    }
}

#[tokio::test]
async fn a_message_without_a_saga_is_treated_as_was_said() {
    for world in worlds().await {
        let calls = Arc::new(AtomicU32::new(0));
        let ignoring = world.bus("a").saga(orders()).build().unwrap();
        ignoring.handle(delivery(&Paid { order: 1 })).await.unwrap();
        let failing = world.bus("b").saga(orders().when_missing(WhenMissing::Fail)).build().unwrap();
        let settled = Settled::default();
        let said = failing.handle(settled.of(&Paid { order: 1 })).await.unwrap_err().to_string();
        assert!(said.contains("there is no saga \"orders\" for order = 1"), "{said}");
        assert_eq!(settled.said(), ["nack"], "{world}: it may have overtaken the start");
        let counter = Arc::clone(&calls);
        let calling = orders().when_missing_call(move |missing: Missing, _: Context| {
            let calls = Arc::clone(&counter);
            async move {
                assert_eq!(missing.looked_for, [("order".to_owned(), "1".to_owned())]);
                calls.fetch_add(1 + u32::from(missing.completed.is_some()), SeqCst);
                Ok(())
            }
        });
        let calling = world.bus("c").saga(calling).build().unwrap();
        calling.handle(delivery(&Paid { order: 1 })).await.unwrap();
        assert_eq!(calls.load(SeqCst), 1, "{world}");
        calling.handle(delivery(&OrderPlaced { order: 1 })).await.unwrap();
        calling.handle(delivery(&Paid { order: 1 })).await.unwrap();
        calling.handle(delivery(&Delivered { parcel: "p1".into() })).await.unwrap();
        calling.handle(delivery(&OrderPlaced { order: 1 })).await.unwrap();
        assert_eq!(calls.load(SeqCst), 3, "{world}: the start met a completed saga");
        // For a completed saga no second try can help.
        let settled = Settled::default();
        failing.handle(settled.of(&Paid { order: 1 })).await.unwrap_err();
        assert_eq!((settled.said(), world.dead_letters()), (vec!["ack"], 1), "{world}");
        world.close().await;
    }
}

/// Handlers that wait for each other: both read before one of them saves.
#[derive(Clone)]
struct Together(Arc<Barrier>, Arc<AtomicU32>);

impl Together {
    fn new(messages: usize) -> Self {
        Self(Arc::new(Barrier::new(messages)), Arc::default())
    }

    /// Waits for the others the first time only.
    async fn meet(&self, messages: u32) {
        if self.1.fetch_add(1, SeqCst) < messages {
            self.0.wait().await;
        }
    }
}

async fn counts(_: Paid, mut order: Saga<Order>, together: State<Together>) -> Result<()> {
    together.0.meet(2).await;
    order.paid += 1;
    Ok(())
}

async fn two_at_once(world: &World, bus: &Bus) {
    bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
    let (one, two) =
        tokio::join!(bus.handle(delivery(&Paid { order: 7 })), bus.handle(delivery(&Paid { order: 7 })));
    one.and(two).unwrap_or_else(|error| panic!("{world}: {error}"));
}

/// W14: neither the first nor the last writer wins. SQLite has one writer at a time and so no conflict.
#[tokio::test]
async fn of_two_messages_that_read_the_same_state_one_is_handled_again() {
    each_world(|world| async move {
        let together = Together::new(2);
        let saga = Saga::<Order>::define("orders")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), on_placed)
            .then(by("order", |paid: &Paid| paid.order), counts);
        let bus = world.bus("desk").state(together.clone()).saga(saga).build().unwrap();
        two_at_once(&world, &bus).await;
        assert_eq!(world.data().await.unwrap(), r#"{"placed":1,"paid":2,"delivered":false}"#, "{world}");
        assert_eq!(together.1.load(SeqCst), 3, "{world}: one of them twice");
        assert_eq!(world.attempts().await, 0, "{world}: that is no attempt");
        world.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_conflict_that_does_not_end_is_an_error_that_says_where() {
    each_world(|world| async move {
        let saga = Saga::<Order>::define("orders")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), on_placed)
            .then(by("order", |paid: &Paid| paid.order), counts);
        let bus = world.bus("desk").state(Together::new(2)).saga_conflict_retries_max(0);
        let bus = bus.saga(saga).build().unwrap();
        bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
        let (a, b) = (Settled::default(), Settled::default());
        let (one, two) =
            tokio::join!(bus.handle(a.of(&Paid { order: 7 })), bus.handle(b.of(&Paid { order: 7 })));
        let said = one.err().or(two.err()).unwrap().to_string();
        assert!(said.contains("saga \"orders\" (order = 7, id ") && said.contains("revision 0"), "{said}");
        let mut settled = [a.said(), b.said()].concat();
        settled.sort_unstable();
        assert_eq!(settled, ["ack", "nack"], "{world}: it comes again, counted");
        assert_eq!(world.data().await.unwrap(), r#"{"placed":1,"paid":1,"delivered":false}"#, "{world}");
        world.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_saga_that_merges_is_not_handled_again() {
    each_world(|world| async move {
        let (together, merges) = (Together::new(2), Arc::new(AtomicU32::new(0)));
        let merged = Arc::clone(&merges);
        let saga = Saga::<Order>::define("orders")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), on_placed)
            .then(by("order", |paid: &Paid| paid.order), counts)
            .resolve_conflict(move |mine: &mut Order, other: &Order| {
                merged.fetch_add(1, SeqCst);
                mine.paid += other.paid;
                Resolution::Save
            });
        let bus = world.bus("desk").state(together.clone()).saga(saga).build().unwrap();
        two_at_once(&world, &bus).await;
        assert_eq!(world.data().await.unwrap(), r#"{"placed":1,"paid":2,"delivered":false}"#, "{world}");
        assert_eq!((together.1.load(SeqCst), merges.load(SeqCst)), (2, 1), "{world}");
        assert_eq!(world.revision().await, 2, "{world}");
        world.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_state_of_another_version_is_a_dead_letter_that_says_so() {
    for world in worlds().await {
        let bus = world.bus("desk").saga(orders()).build().unwrap();
        bus.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap();
        let newer = Saga::<Vec<u8>>::define("orders")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), async |_: OrderPlaced| Ok(()));
        let newer = world.bus("desk").saga(newer).build().unwrap();
        let said = newer.handle(delivery(&OrderPlaced { order: 7 })).await.unwrap_err().to_string();
        assert!(
            said.contains("the state of saga \"orders\" with id ") && said.contains("cannot be read"),
            "{said}"
        );
        assert_eq!(world.dead_letters(), 1, "{world}");
        world.close().await;
    }
}

#[test]
fn what_cannot_work_is_not_built() {
    let refused = |builder: barid::BusBuilder| builder.build().unwrap_err().to_string();
    let bus = || Bus::builder("desk").transport(barid::Memory::new());
    let said = refused(bus().saga(orders()));
    assert!(said.contains("BRD013") && said.contains("sagas") && said.contains("memory_sagas"), "{said}");
    let twice = Saga::<Order>::define("orders").then(by("order", |paid: &Paid| paid.order), on_paid);
    let said = refused(bus().memory_sagas(MemorySagas::new()).saga(orders()).saga(twice));
    assert!(said.contains("BRD040: saga \"orders\" is declared twice"), "{said}");
    assert!(said.contains("BRD040: saga \"orders\" is started by no message"), "{said}");
    let two = orders().then(by("parcel", |paid: &Paid| paid.order), on_paid);
    let said = refused(bus().memory_sagas(MemorySagas::new()).saga(two));
    assert!(said.contains("two handlers for message \"payments.received\""), "{said}");
    let said = refused(bus().handler(on_placed));
    assert!(said.contains("BRD014") && said.contains("belongs to no saga"), "{said}");
    let other = orders().then(by("order", |placed: &Other| placed.order), audited_other);
    let said = refused(bus().memory_sagas(MemorySagas::new()).saga(other));
    assert!(said.contains("BRD014") && said.contains("belongs to a saga whose state is"), "{said}");
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.other")]
struct Other {
    order: u64,
}

async fn audited_other(_: Other, _: Saga<Audit>) -> Result<()> {
    Ok(())
}
