//! Subscriptions that change while buses run: native, in a shared store, and by requests to the publisher.

use barid::{
    Bus, BusBuilder, Destination, MemorySubscriptions, Outgoing, SqlSubscriptions, SubscriptionStore,
    Subscriptions, Transport, limits, transport::Inbox,
};
use barid_tests::eventually;

use crate::world::{Log, PATIENCE, Place, Placed, World, log_place, log_placed};

on_both!(
    a_running_bus_subscribes_and_unsubscribes_natively,
    a_running_bus_subscribes_and_unsubscribes_in_a_shared_store,
    a_subscriber_asks_the_publisher,
    a_subscriber_that_starts_first_waits_for_its_publisher,
    an_unreadable_request_is_a_dead_letter,
);

/// Subscribes, gets an event, unsubscribes, gets no other one; and a bus that unsubscribes from nothing is told nothing.
async fn check<T: Transport + Clone>(world: &World<T>, with: impl Fn(BusBuilder) -> BusBuilder) {
    let log = Log::default();
    // RabbitMQ refuses an event that no queue gets.
    world.transport.declare(&Inbox::new(world.name("audit")).topic(world.name("orders"))).await.unwrap();
    let bus = with(world.bus("one")).parallelism(1).handler(log_placed).handler(log_place).state(log.clone());
    let bus = world.run(bus).await;
    let publisher = with(world.bus("publisher")).handler(log_place).state(Log::default()).build().unwrap();
    bus.unsubscribe::<Placed>().await.unwrap();
    publisher.publish(Placed { id: 1 }).await.unwrap();
    bus.subscribe::<Placed>().await.unwrap();
    bus.subscribe::<Placed>().await.unwrap();
    let key = |id| Outgoing::new(Placed { id }).key("k");
    // The publisher may believe what it knew for a moment.
    eventually(PATIENCE, "the subscription is seen", || async {
        publisher.publish(key(2)).await.unwrap();
        tokio::time::timeout(limits::SUBSCRIPTIONS_AGE_MAX / 20, log.entries(1)).await.is_ok()
    })
    .await;
    assert_eq!(log.read()[0], "placed 2");
    bus.unsubscribe::<Placed>().await.unwrap();
    bus.unsubscribe::<Placed>().await.unwrap();
    let mut round = 100;
    // Queues are in order: when the command after an event is handled, the event would have been.
    eventually(PATIENCE, "events no longer arrive", || {
        round += 1;
        let (publisher, bus, log) = (publisher.clone(), bus.clone(), log.clone());
        async move {
            publisher.publish(key(round)).await.unwrap();
            bus.send_local(Outgoing::new(Place { id: round }).key("k")).await.unwrap();
            let handled = || async { log.read().contains(&format!("place {round}")) };
            eventually(PATIENCE, "the command is handled", handled).await;
            !log.read().contains(&format!("placed {round}"))
        }
    })
    .await;
    assert!(!log.read().contains(&"placed 1".to_owned()));
}

async fn a_running_bus_subscribes_and_unsubscribes_natively<T: Transport + Clone>(world: &World<T>) {
    check(world, |bus| bus).await;
}

async fn a_running_bus_subscribes_and_unsubscribes_in_a_shared_store<T: Transport + Clone>(world: &World<T>) {
    check(world, |bus| bus.subscriptions(Subscriptions::centralised(SqlSubscriptions::new(world.pool()))))
        .await;
}

async fn queues<T: Transport + Clone>(world: &World<T>, store: &impl SubscriptionStore) -> Vec<String> {
    store.subscribers(&world.name("orders"), 10).await.unwrap()
}

fn subscriber<T: Transport + Clone>(world: &World<T>, name: &str, log: &Log) -> BusBuilder {
    let bus = world.bus(name).route_pattern("orders.placed*", world.queue("publisher"));
    bus.subscriptions(Subscriptions::by_request()).handler(log_placed).handler(log_place).state(log.clone())
}

fn publisher<T: Transport + Clone>(world: &World<T>, store: &(impl SubscriptionStore + Clone)) -> BusBuilder {
    // Unit of work and store on one SQLite file: a request must not wait for the transaction it would run in.
    let unit = barid::SqlUnitOfWork::new(world.pool()).commit_with_transaction(true);
    let bus = world.bus("publisher").unit_of_work(unit).idempotency(barid::SqlIdempotency::new());
    let bus = bus.outbox(barid::SqlOutbox::new()).handler(log_place).state(Log::default());
    bus.subscriptions(Subscriptions::decentralised(store.clone()))
}

async fn a_subscriber_asks_the_publisher<T: Transport + Clone>(world: &World<T>) {
    let store = SqlSubscriptions::new(world.pool());
    let publisher = world.run(publisher(world, &store)).await;
    let log = Log::default();
    // The handler of a command has no owner elsewhere and is left out of what it asks for.
    let bus = world.run(subscriber(world, "one", &log).auto_subscribe()).await;
    eventually(PATIENCE, "the subscription", || async { queues(world, &store).await == [world.name("one")] })
        .await;
    let seen = || async {
        publisher.publish(Placed { id: 1 }).await.unwrap();
        !log.read().is_empty()
    };
    eventually(PATIENCE, "the event", seen).await;
    bus.unsubscribe::<Placed>().await.unwrap();
    eventually(PATIENCE, "the end of it", || async { queues(world, &store).await.is_empty() }).await;
    bus.unsubscribe::<Placed>().await.unwrap();
    bus.subscribe::<Placed>().await.unwrap();
    eventually(PATIENCE, "the new one", || async { queues(world, &store).await == [world.name("one")] })
        .await;
    let said = bus.subscribe::<Place>().await.unwrap_err().to_string();
    assert!(said.contains("\"orders.place\"") && said.contains("orders.placed* -> queue:"), "{said}");
}

async fn a_subscriber_that_starts_first_waits_for_its_publisher<T: Transport + Clone>(world: &World<T>) {
    let (store, log) = (MemorySubscriptions::new(), Log::default());
    let one: Bus = world.run(subscriber(world, "one", &log).auto_subscribe()).await;
    let said = one.subscribe::<Placed>().await.unwrap_err().to_string();
    assert!(said.contains("cannot be delivered") && said.contains("asking queue:"), "{said}");
    world.run(publisher(world, &store)).await;
    eventually(PATIENCE, "the subscription", || async { queues(world, &store).await == [world.name("one")] })
        .await;
}

async fn an_unreadable_request_is_a_dead_letter<T: Transport + Clone>(world: &World<T>) {
    let store = MemorySubscriptions::new();
    let bus = world.run(publisher(world, &store)).await;
    for body in ["nonsense", r#"{"topic":"a b","queue":"q"}"#] {
        let bytes = bytes::Bytes::from_static(body.as_bytes());
        bus.send_local(Outgoing::raw("barid.subscribe", bytes)).await.unwrap();
        let (dead, _) = world.take("dead").await;
        let cause = dead.get(barid::headers::DEAD_CAUSE).unwrap();
        assert!(cause.contains("\"barid.subscribe\" cannot be read"), "{cause}");
    }
    assert!(store.subscribers("a b", 1).await.unwrap().is_empty());
}

#[test]
fn a_subscription_without_owner_does_not_build() {
    let build = |route: Option<&str>| {
        let bus =
            Bus::builder("one").transport(barid::Memory::new()).handler(log_placed).state(Log::default());
        let bus = bus.subscriptions(Subscriptions::by_request()).subscribe_to::<Placed>();
        let bus = match route {
            Some(queue) => bus.route::<Placed>(Destination::queue(queue).unwrap()),
            None => bus,
        };
        bus.build().map_err(|error| error.to_string())
    };
    for wrong in [build(None), build(Some("one"))] {
        let said = wrong.unwrap_err();
        assert!(said.contains("BRD025") && said.contains("\"orders.placed\""), "{said}");
    }
    build(Some("publisher")).unwrap();
}
