//! What goes to whoever subscribed: fan-out, base types, and events that are not for a bus.

use barid::{
    Bus, MemorySubscriptions, Message, Outbox, Outgoing, Result, Sender, SqlSubscriptions, State,
    SubscriptionStore, Subscriptions, Transport, headers, transport::Inbox,
};
use serde::{Deserialize, Serialize};

use crate::world::{Cancelled, Log, PATIENCE, Placed, PlacedExpress, World, log_express, log_placed};

on_both!(
    an_event_goes_to_every_subscriber_of_the_transport,
    a_store_makes_one_message_for_each_subscribed_queue,
    without_subscribers_nothing_is_sent_and_nothing_fails,
    the_missing_queue_of_a_subscriber_is_an_error,
    a_handler_of_a_base_gets_the_events_that_extend_it,
    a_bus_that_never_heard_of_an_event_finds_the_handler_of_its_base,
    an_event_without_a_handler_here_is_no_dead_letter,
    senders_and_outboxes_publish_to_the_subscribers_of_a_store,
);

async fn an_event_goes_to_every_subscriber_of_the_transport<T: Transport + Clone>(world: &World<T>) {
    let (one, two) = (Log::default(), Log::default());
    for (name, log) in [("one", &one), ("two", &two)] {
        world.run(world.bus(name).handler(log_placed).state(log.clone()).subscribe_to::<Placed>()).await;
    }
    let publisher = world.bus("publisher").handler(log_express).state(Log::default()).build().unwrap();
    publisher.publish(Placed { id: 1 }).await.unwrap();
    assert_eq!(one.entries(1).await, ["placed 1"]);
    assert_eq!(two.entries(1).await, ["placed 1"]);
}

fn shared<T: Transport + Clone>(world: &World<T>) -> Subscriptions {
    Subscriptions::centralised(SqlSubscriptions::new(world.pool()))
}

fn publisher<T: Transport + Clone>(world: &World<T>, subscriptions: Subscriptions) -> Bus {
    let bus = world.bus("publisher").handler(log_express).state(Log::default());
    bus.subscriptions(subscriptions).build().unwrap()
}

async fn a_store_makes_one_message_for_each_subscribed_queue<T: Transport + Clone>(world: &World<T>) {
    let log = Log::default();
    let one = world.bus("one").handler(log_placed).state(log.clone()).auto_subscribe();
    world.run(one.subscriptions(shared(world))).await;
    let two = world.bus("two").handler(log_placed).handler(log_express).state(log.clone());
    // Twice and with a base on the same topic: still one message for its queue.
    let two = two.auto_subscribe().subscribe_to::<PlacedExpress>().subscribe(world.name("orders"));
    world.run(two.subscriptions(shared(world))).await;
    let publisher = publisher(world, shared(world));
    publisher.publish(Placed { id: 1 }).await.unwrap();
    publisher.publish(Placed { id: 2 }).await.unwrap();
    let mut seen = log.entries(4).await;
    seen.sort();
    assert_eq!(seen, ["placed 1", "placed 1", "placed 2", "placed 2"]);
}

async fn without_subscribers_nothing_is_sent_and_nothing_fails<T: Transport + Clone>(world: &World<T>) {
    let store = MemorySubscriptions::new();
    let publisher = publisher(world, Subscriptions::centralised(store.clone()));
    publisher.publish(Placed { id: 1 }).await.unwrap();
    // Whoever subscribes afterwards gets what is published afterwards.
    world.declare("late").await;
    let late = Subscriptions::centralised(store.clone());
    let late =
        world.bus("late").handler(log_placed).state(Log::default()).subscriptions(late).build().unwrap();
    late.subscribe::<Placed>().await.unwrap();
    let again = Subscriptions::centralised(store);
    let publisher = world.bus("publisher").handler(log_express).state(Log::default()).subscriptions(again);
    publisher.build().unwrap().publish(Placed { id: 2 }).await.unwrap();
    assert_eq!(&world.take("late").await.1[..], br#"{"id":2}"#);
}

async fn the_missing_queue_of_a_subscriber_is_an_error<T: Transport + Clone>(world: &World<T>) {
    let store = SqlSubscriptions::new(world.pool());
    store.subscribe(&world.name("orders"), &world.name("deleted")).await.unwrap();
    let said = publisher(world, shared(world)).publish(Placed { id: 1 }).await.unwrap_err().to_string();
    assert!(said.contains("cannot be delivered") && said.contains(&world.name("deleted")), "{said}");
}

async fn a_handler_of_a_base_gets_the_events_that_extend_it<T: Transport + Clone>(world: &World<T>) {
    let (base, both) = (Log::default(), Log::default());
    // Each event has a topic of its own here, and the event is published to that of its base too.
    let bus = world.bus_by_name("base").handler(log_placed).state(base.clone()).auto_subscribe();
    world.run(bus).await;
    let bus = world.bus_by_name("both").handler(log_placed).handler(log_express).state(both.clone());
    world.run(bus.subscribe_to::<PlacedExpress>()).await;
    let publisher = world.bus_by_name("publisher").handler(log_express).state(Log::default());
    let publisher = publisher.build().unwrap();
    publisher.publish(PlacedExpress { id: 1, hours: 2 }).await.unwrap();
    assert_eq!(base.entries(1).await, ["placed 1"]);
    publisher.publish(Placed { id: 3 }).await.unwrap();
    assert_eq!(base.entries(2).await, ["placed 1", "placed 3"]);
    // The handlers of the event itself come first, whatever the order of registration; its topic has no plain events.
    assert_eq!(both.entries(2).await, ["express 1 2", "placed 1"]);
}

/// Another program's event: this one knows only its base.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed_by_drone", extends("orders.placed"))]
struct PlacedByDrone {
    id: i64,
    drone: String,
}

async fn a_bus_that_never_heard_of_an_event_finds_the_handler_of_its_base<T: Transport + Clone>(
    world: &World<T>,
) {
    let log = Log::default();
    world.run(world.bus("orders").handler(log_placed).state(log.clone()).auto_subscribe()).await;
    let publisher = publisher(world, Subscriptions::native());
    publisher.publish(PlacedByDrone { id: 4, drone: "x".into() }).await.unwrap();
    let raw = bytes::Bytes::from_static(br#"{"id":5}"#);
    publisher.publish(Outgoing::raw("orders.unheard", raw).extends("orders.placed")).await.unwrap();
    let mut seen = log.entries(2).await;
    seen.sort();
    assert_eq!(seen, ["placed 4", "placed 5"]);
}

async fn an_event_without_a_handler_here_is_no_dead_letter<T: Transport + Clone>(world: &World<T>) {
    let log = Log::default();
    let bus = world.bus("orders").parallelism(1).handler(log_placed).state(log.clone()).auto_subscribe();
    let bus = world.run(bus).await;
    let publisher = publisher(world, Subscriptions::native());
    publisher.publish(Outgoing::new(Cancelled { id: 1 }).key(1)).await.unwrap();
    publisher.publish(Outgoing::new(Placed { id: 1 }).key(1)).await.unwrap();
    assert_eq!(log.entries(1).await, ["placed 1"]);
    // The same message as a command is one: it is the first dead letter.
    bus.send_local(Cancelled { id: 2 }).await.unwrap();
    let (dead, body) = world.take("dead").await;
    assert_eq!(&body[..], br#"{"id":2}"#);
    assert!(dead.get(headers::DEAD_CAUSE).unwrap().contains("no handler for message \"orders.cancelled\""));
}

async fn senders_and_outboxes_publish_to_the_subscribers_of_a_store<T: Transport + Clone>(world: &World<T>) {
    let log = Log::default();
    let bus = world.bus("one").handler(log_placed).state(log.clone()).subscriptions(shared(world));
    world.run(bus.auto_subscribe()).await;
    let orders = world.name("orders");
    let convention = move |_: &str, _: &str| orders.clone();
    let sender = Sender::connect(&world.transport, "web").await.unwrap();
    let sender = sender.subscriptions(shared(world)).topic_names(convention.clone());
    let sender = sender.route_pattern("orders.*", world.queue("one"));
    sender.publish(Placed { id: 1 }).await.unwrap();
    assert_eq!(log.entries(1).await, ["placed 1"]);
    sender.send(Placed { id: 2 }).await.unwrap();
    assert_eq!(log.entries(2).await[1], "placed 2");
    let said = sender.send(Outgoing::raw("billing.charge", None)).await.unwrap_err().to_string();
    assert!(said.contains("orders.* -> queue:"), "{said}");

    let outbox = Outbox::new("web").subscriptions(shared(world)).topic_names(convention);
    let mut connection = world.pool().acquire().await.unwrap();
    outbox.enqueue::<sqlx::Sqlite>(&mut connection, PlacedExpress { id: 3, hours: 1 }).await.unwrap();
    drop(connection);
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT destination FROM outbox").fetch_all(&world.pool()).await.unwrap();
    assert_eq!(rows, [world.queue("one").to_string()]);
}

async fn log_nothing(_: Cancelled, _: State<Log>) -> Result<()> {
    Ok(())
}

/// The inbox of a bus tells what it subscribes to; nothing is received here.
#[tokio::test]
async fn auto_subscribing_leaves_out_what_the_bus_owns() {
    let memory = barid::Memory::new();
    let bus = Bus::builder("orders").transport(memory.clone()).auto_subscribe().state(Log::default());
    let own = barid::Destination::queue("orders").unwrap();
    let bus = bus.route::<Cancelled>(own).topic_names(barid::routing::topic_by_name);
    // Registered after auto_subscribe, and still subscribed.
    let bus = bus.handler(log_nothing).handler(log_placed).build().unwrap();
    bus.declare().await.unwrap();
    memory.declare(&Inbox::new("orders")).await.unwrap();
    let sender = Sender::connect(&memory, "test").await.unwrap().topic_names(barid::routing::topic_by_name);
    sender.publish(Cancelled { id: 1 }).await.unwrap();
    assert!(memory.is_empty("orders"));
    sender.publish(Placed { id: 1 }).await.unwrap();
    let arrived = || async { memory.len("orders") == 1 };
    barid_tests::eventually(PATIENCE, "the event in the queue", arrived).await;
}
