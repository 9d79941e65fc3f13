//! The application: sending to its own queue, to owners and to places by name, and what it needs to be built.

use barid::{
    Bus, BusState, Context, Destination, Memory, Outgoing, Result, State, Transport, headers,
    transport::Inbox,
};
use uuid::Uuid;

use crate::stage::{BUS, Journal, Place, Placed, Running, bus};

async fn place(cmd: Place, cx: Context, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("{} places {} as {}", cx.bus(), cmd.id, cx.message_id()));
    Ok(())
}

async fn second(cmd: Place, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("second {}", cmd.id));
    Ok(())
}

async fn queue(network: &Memory, name: &str) -> Destination {
    network.declare(&Inbox::new(name)).await.unwrap();
    Destination::queue(name).unwrap()
}

#[tokio::test]
async fn what_is_sent_to_its_own_queue_goes_to_all_its_handlers() {
    let (network, journal) = (Memory::new(), Journal::default());
    let builder = bus(&network).await.handler(place).handler(second).state(journal.clone());
    let running = Running::start(builder).await;
    let id = Uuid::now_v7();
    running.bus.send_local(Outgoing::new(Place { id: 1 }).id(id)).await.unwrap();
    assert_eq!(journal.until(2).await, [format!("orders places 1 as {id}"), "second 1".to_owned()]);
    running.stop().await;
}

#[tokio::test]
async fn a_command_goes_to_its_owner_or_to_where_it_was_told() {
    let network = Memory::new();
    let (owner, elsewhere) = (queue(&network, "owner").await, queue(&network, "elsewhere").await);
    let bus = bus(&network).await.send_only().route::<Place>(owner).build().unwrap();
    bus.send(Place { id: 1 }).await.unwrap();
    bus.send(Outgoing::new(Place { id: 2 }).to(elsewhere)).await.unwrap();
    for (name, body) in [("owner", r#"{"id":1}"#), ("elsewhere", r#"{"id":2}"#)] {
        let waiting = network.peek(name);
        assert_eq!(
            waiting.iter().map(|(_, body)| &body[..]).collect::<Vec<_>>(),
            [body.as_bytes()],
            "{name}"
        );
    }
    // Routes are for exactly one message.
    let said = bus.send(Placed { id: 3 }).await.unwrap_err().to_string();
    assert!(said.contains("\"orders.placed\"") && said.contains("orders.place -> queue:owner"), "{said}");
    let nowhere = Destination::queue("nowhere").unwrap();
    let said = bus.send(Outgoing::new(Place { id: 4 }).to(nowhere)).await.unwrap_err().to_string();
    assert!(said.contains("nowhere"), "{said}");
}

/// The model takes a function that makes ids; ours takes the id with the message, and a step can set all of them.
#[tokio::test]
async fn the_id_that_the_user_gave_stays() {
    let network = Memory::new();
    let to = queue(&network, "owner").await;
    let bus = bus(&network).await.send_only().route::<Place>(to).build().unwrap();
    let id = Uuid::from_u128(7);
    bus.send(Outgoing::new(Place { id: 1 }).id(id)).await.unwrap();
    bus.send(Place { id: 2 }).await.unwrap();
    let ids: Vec<_> =
        network.peek("owner").iter().map(|(found, _)| found.get(headers::ID).unwrap().to_owned()).collect();
    assert_eq!(ids[0], id.to_string());
    assert_eq!(ids[1].parse::<Uuid>().unwrap().get_version_num(), 7);
}

/// The model joins the transaction of whatever handler runs around it, if the handler is of the same application. Ours is told:
/// a send through the context leaves with the commit, one through a bus leaves at once.
#[tokio::test]
async fn only_a_send_through_the_context_belongs_to_the_message() {
    async fn fails(cmd: Place, cx: Context, other: State<Bus>) -> Result<()> {
        cx.publish(Placed { id: cmd.id })?;
        other.0.publish(Placed { id: cmd.id + 1 }).await?;
        Err(barid::Error::permanent("no"))
    }
    let network = Memory::new();
    network.declare(&Inbox::new("shipping").topic("orders")).await.unwrap();
    let other = Bus::builder("web").transport(network.clone()).send_only().build().unwrap();
    let bus = bus(&network).await.handler(fails).state(other).build().unwrap();
    bus.handle(crate::stage::delivery(Uuid::now_v7(), 1)).await.unwrap_err();
    let sent = network.peek("shipping");
    assert_eq!(sent.iter().map(|(_, body)| &body[..]).collect::<Vec<_>>(), [br#"{"id":2}"#]);
}

#[tokio::test]
async fn a_bus_that_only_sends_has_no_queue_and_no_handlers() {
    let network = Memory::new();
    let to = queue(&network, "owner").await;
    let running = Running::start(bus(&network).await.send_only()).await;
    let running_now = || async { running.bus.health().state == BusState::Running };
    barid_tests::eventually(crate::stage::PATIENCE, "it runs", running_now).await;
    running.bus.send(Outgoing::new(Place { id: 1 }).to(to)).await.unwrap();
    assert_eq!(network.len("owner"), 1);
    let own = Destination::queue(BUS).unwrap();
    running.bus.send(Outgoing::new(Place { id: 1 }).to(own)).await.unwrap_err();
    for local in [running.bus.send_local(Place { id: 0 }).await, running.bus.subscribe::<Placed>().await] {
        let said = local.unwrap_err().to_string();
        assert!(said.contains("BRD088"), "{said}");
    }
    running.stop().await;
    let handling = bus(&network).await.send_only().handler(place).state(Journal::default());
    let said = handling.build().unwrap_err().to_string();
    assert!(said.contains("BRD081"), "{said}");
}

#[test]
fn without_a_transport_it_is_not_built() {
    let said = Bus::builder(BUS).handler(place).state(Journal::default()).build().unwrap_err().to_string();
    assert!(said.contains("it has no transport") && said.contains(".transport(..)"), "{said}");
}

/// What handlers ask for is looked for when the bus is built, not when a message comes.
#[test]
fn without_what_its_handlers_ask_for_it_is_not_built() {
    let builder = || Bus::builder(BUS).transport(Memory::new()).handler(second);
    let said = builder().build().unwrap_err().to_string();
    assert!(said.contains("BRD014") && said.contains("Journal"), "{said}");
    builder().state(Journal::default()).build().unwrap();
    let said = Bus::builder(BUS).transport(Memory::new()).build().unwrap_err().to_string();
    assert!(said.contains("BRD011"), "{said}");
}
