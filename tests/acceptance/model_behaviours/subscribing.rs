//! Who gets an event: native, centralised and decentralised subscriptions, and what keeps them.

use std::sync::Arc;

use barid::{
    Bus, BusBuilder, Context, Destination, Memory, MemorySubscriptions, Message, Result, SqlSubscriptions,
    State, SubscriptionStore, Subscriptions, Transport, store::AnyPool, transport::Inbox,
};
use barid_tests::eventually;
use serde::{Deserialize, Serialize};

use crate::stage::{BUS, Journal, PATIENCE, Place, Placed, Running, bus, database};

/// A child of [`Placed`].
#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "orders.placed_express", extends(Placed))]
struct PlacedExpress {
    id: i64,
}

async fn placed(event: Placed, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("placed {}", event.id));
    Ok(())
}

async fn place(cmd: Place, cx: Context) -> Result<()> {
    cx.publish(Placed { id: cmd.id })
}

fn subscriber(network: &Memory, name: &str, journal: &Journal) -> BusBuilder {
    Bus::builder(name).transport(network.clone()).handler(placed).state(journal.clone()).parallelism(1)
}

fn publisher(network: &Memory, subscriptions: Subscriptions) -> Bus {
    Bus::builder("web").transport(network.clone()).send_only().subscriptions(subscriptions).build().unwrap()
}

#[tokio::test]
async fn an_event_for_nobody_is_no_error() {
    let network = Memory::new();
    let central = Subscriptions::centralised(MemorySubscriptions::new());
    for subscriptions in [Subscriptions::native(), central] {
        publisher(&network, subscriptions).publish(Placed { id: 1 }).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_handler_publishes_reaches_every_subscriber() {
    let (network, one, two) = (Memory::new(), Journal::default(), Journal::default());
    let orders = Running::start(bus(&network).await.handler(place)).await;
    // By the handlers that are registered, or by name.
    let first = Running::start(subscriber(&network, "one", &one).auto_subscribe()).await;
    let second = Running::start(subscriber(&network, "two", &two).subscribe_to::<Placed>()).await;
    orders.bus.send_local(Place { id: 7 }).await.unwrap();
    assert_eq!((one.until(1).await, two.until(1).await), (vec!["placed 7".into()], vec!["placed 7".into()]));
    for running in [orders, first, second] {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_subscriber_of_the_parent_gets_the_child() {
    // Each event has a topic of its own here.
    let (network, journal) = (Memory::new(), Journal::default());
    let by_name = |bus: BusBuilder| bus.topic_names(barid::routing::topic_by_name);
    let running = Running::start(by_name(subscriber(&network, "one", &journal)).auto_subscribe()).await;
    let web = by_name(Bus::builder("web").transport(network.clone())).send_only().build().unwrap();
    web.publish(PlacedExpress { id: 1 }).await.unwrap();
    web.publish(Placed { id: 2 }).await.unwrap();
    assert_eq!(journal.until(2).await, ["placed 1", "placed 2"]);
    running.stop().await;
}

#[tokio::test]
async fn a_bus_subscribes_and_unsubscribes_at_its_transport_or_in_a_store_that_all_share() {
    let store = MemorySubscriptions::new();
    // Publisher and subscriber share what they know of the store, so a change holds from the next event on.
    for shared in [Subscriptions::native(), Subscriptions::centralised(store.clone())] {
        let (network, journal) = (Memory::new(), Journal::default());
        let builder = subscriber(&network, "one", &journal).subscriptions(shared.clone());
        let running = Running::start(builder).await;
        let web = publisher(&network, shared);
        web.publish(Placed { id: 1 }).await.unwrap();
        running.bus.subscribe::<Placed>().await.unwrap();
        web.publish(Placed { id: 2 }).await.unwrap();
        running.bus.unsubscribe::<Placed>().await.unwrap();
        web.publish(Placed { id: 3 }).await.unwrap();
        running.bus.subscribe::<Placed>().await.unwrap();
        web.publish(Placed { id: 4 }).await.unwrap();
        assert_eq!(journal.until(2).await, ["placed 2", "placed 4"]);
        running.stop().await;
    }
    assert_eq!(store.subscribers("orders", 10).await.unwrap(), ["one"]);
}

#[tokio::test]
async fn a_subscriber_asks_the_owner_of_the_event_and_takes_it_back() {
    let (network, journal, store) = (Memory::new(), Journal::default(), MemorySubscriptions::new());
    let decentralised = Subscriptions::decentralised(store.clone());
    let orders = bus(&network).await.handler(place).subscriptions(decentralised);
    let orders = Running::start(orders).await;
    let one = subscriber(&network, "one", &journal).subscriptions(Subscriptions::by_request());
    let one = Running::start(one.route::<Placed>(Destination::queue(BUS).unwrap())).await;
    let known = |queues: &'static [&'static str]| {
        let store = store.clone();
        move || {
            let store = store.clone();
            async move { store.subscribers("orders", 10).await.unwrap() == queues }
        }
    };
    one.bus.subscribe::<Placed>().await.unwrap();
    eventually(PATIENCE, "the request is granted", known(&["one"])).await;
    orders.bus.send_local(Place { id: 1 }).await.unwrap();
    assert_eq!(journal.until(1).await, ["placed 1"]);
    one.bus.unsubscribe::<Placed>().await.unwrap();
    eventually(PATIENCE, "it is taken back", known(&[])).await;
    orders.bus.publish(Placed { id: 2 }).await.unwrap();
    // Its queue is in order: what it sends itself would come after the event.
    one.bus.send_local(Placed { id: 3 }).await.unwrap();
    assert_eq!(journal.until(2).await, ["placed 1", "placed 3"]);
    one.stop().await;
    orders.stop().await;
}

/// The model refuses to publish without a store. Ours has the transport's own then, and refuses what has no owner to ask.
#[tokio::test]
async fn a_subscription_that_nobody_can_grant_is_a_build_error() {
    let builder = subscriber(&Memory::new(), "one", &Journal::default());
    let builder = builder.subscriptions(Subscriptions::by_request()).subscribe_to::<Placed>();
    let said = builder.build().unwrap_err().to_string();
    assert!(said.contains("BRD025") && said.contains("\"orders.placed\""), "{said}");
}

async fn contract(store: Arc<dyn SubscriptionStore>) {
    let queues = async || store.subscribers("orders", 10).await.unwrap();
    store.unsubscribe("orders", "nobody").await.unwrap();
    assert!(queues().await.is_empty());
    for queue in ["b", "a", "b"] {
        store.subscribe("orders", queue).await.unwrap();
    }
    store.subscribe("billing", "c").await.unwrap();
    assert_eq!(queues().await, ["a", "b"], "each once, by name, of this topic only");
    store.unsubscribe("orders", "a").await.unwrap();
    store.unsubscribe("orders", "a").await.unwrap();
    assert_eq!(queues().await, ["b"]);
}

#[tokio::test]
async fn subscriptions_in_memory() {
    contract(Arc::new(MemorySubscriptions::new())).await;
}

#[tokio::test]
async fn subscriptions_in_sqlite_outlive_their_pool() {
    let database = database().await;
    contract(Arc::new(SqlSubscriptions::new(database.pool.clone()))).await;
    let later = AnyPool::connect(&database.url, 1).await.unwrap();
    let store = SqlSubscriptions::new(later.clone());
    assert_eq!(store.subscribers("orders", 10).await.unwrap(), ["b"]);
    later.close().await;
    database.drop_now().await;
}

#[tokio::test]
async fn events_reach_the_queues_that_a_database_names() {
    let (database, network) = (database().await, Memory::new());
    let stored = || Subscriptions::centralised(SqlSubscriptions::new(database.pool.clone()));
    let bus = subscriber(&network, "one", &Journal::default()).subscriptions(stored());
    bus.auto_subscribe().build().unwrap().declare().await.unwrap();
    // At the transport itself nobody subscribed; this one gets nothing.
    network.declare(&Inbox::new("two").topic("orders")).await.unwrap();
    publisher(&network, stored()).publish(Placed { id: 1 }).await.unwrap();
    assert_eq!((network.len("one"), network.len("two")), (1, 0));
    database.drop_now().await;
}
