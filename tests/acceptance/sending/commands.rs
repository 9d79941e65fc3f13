//! What goes to one receiver: owners, patterns, explicit destinations, replies, forwarding, and errors outside a handler.

use barid::{
    Context, Destination, Outgoing, Result, State, Transport, headers,
    transport::rabbitmq::{RabbitMq, Settings},
};
use serde::{Deserialize, Serialize};

use crate::world::{Cancelled, Log, Place, Placed, World, log_place};

on_both!(
    several_sends_keep_their_order,
    a_reply_goes_to_the_sender_and_belongs_to_the_conversation,
    a_message_that_does_not_say_where_answers_go_cannot_be_answered,
    a_forwarded_message_is_the_same_with_an_id_of_its_own,
    the_owner_is_found_by_pattern_and_an_explicit_destination_wins,
    a_missing_route_fails_the_handler_and_lists_the_routes,
    sending_outside_a_handler_returns_every_error,
);

async fn send_many(command: Place, cx: Context, to: State<Destination>) -> Result<()> {
    for id in 0..command.id {
        cx.send(Outgoing::new(Placed { id }).key("one").to((*to.0).clone()))?;
    }
    Ok(())
}

async fn several_sends_keep_their_order<T: Transport + Clone>(world: &World<T>) {
    let log = Log::default();
    let receiver = world.bus("receiver").parallelism(1).handler(crate::world::log_placed).state(log.clone());
    world.run(receiver).await;
    let sender = world.run(world.bus("sender").handler(send_many).state(world.queue("receiver"))).await;
    sender.send_local(Place { id: 200 }).await.unwrap();
    let expected: Vec<_> = (0..200).map(|id| format!("placed {id}")).collect();
    assert_eq!(log.entries(200).await, expected);
}

#[derive(Serialize, Deserialize, barid::Message)]
#[message(name = "orders.answer")]
struct Answer {
    id: i64,
}

async fn answer(command: Place, cx: Context) -> Result<()> {
    cx.reply(Answer { id: command.id * 2 })
}

async fn log_answer(answer: Answer, cx: Context, log: State<Log>) -> Result<()> {
    let header = |name| cx.headers().get(name).unwrap_or("none").to_owned();
    log.0.write(format!(
        "{} to {} in {}",
        answer.id,
        header(headers::IN_REPLY_TO),
        header(headers::CORRELATION_ID)
    ));
    Ok(())
}

async fn a_reply_goes_to_the_sender_and_belongs_to_the_conversation<T: Transport + Clone>(world: &World<T>) {
    let log = Log::default();
    world.run(world.bus("answerer").handler(answer)).await;
    let asker = world.bus("asker").route::<Place>(world.queue("answerer")).handler(log_answer);
    let asker = world.run(asker.state(log.clone())).await;
    let id = uuid::Uuid::now_v7();
    asker.send(Outgoing::new(Place { id: 21 }).id(id).header(headers::CORRELATION_ID, "talk")).await.unwrap();
    assert_eq!(log.entries(1).await, [format!("42 to {id} in talk")]);
}

async fn a_message_that_does_not_say_where_answers_go_cannot_be_answered<T: Transport + Clone>(
    world: &World<T>,
) {
    let answerer = world.run(world.bus("answerer").handler(answer)).await;
    let silent = world.queue("answerer");
    // Published to an explicit place: nobody said where answers go.
    answerer.publish(Outgoing::new(Place { id: 1 }).to(silent)).await.unwrap();
    let (dead, _) = world.take("dead").await;
    let cause = dead.get(headers::DEAD_CAUSE).unwrap();
    assert!(cause.contains("\"barid-reply-to\"") && cause.contains("orders.place"), "{cause}");
}

async fn forward(_: Place, cx: Context, to: State<Destination>) -> Result<()> {
    cx.forward((*to.0).clone())
}

async fn a_forwarded_message_is_the_same_with_an_id_of_its_own<T: Transport + Clone>(world: &World<T>) {
    let to = world.declare("archive").await;
    let bus = world.run(world.bus("orders").handler(forward).state(to)).await;
    let id = uuid::Uuid::now_v7();
    // The bytes are not what our codec would write: they are handed on as they are.
    let raw = Outgoing::raw("orders.place", bytes::Bytes::from_static(b"{ \"id\" : 7 }"));
    bus.send_local(raw.id(id).key("k").header("tenant", "blue")).await.unwrap();
    let (found, body) = world.take("archive").await;
    assert_eq!(&body[..], b"{ \"id\" : 7 }");
    assert_eq!(found.get("tenant"), Some("blue"));
    assert_eq!(found.get(headers::KEY), Some("k"));
    assert_eq!(found.get(headers::TYPE), Some("orders.place"));
    assert_eq!(found.get(headers::ORIGINAL_ID), Some(id.to_string().as_str()));
    assert_eq!(found.get(headers::CORRELATION_ID), Some(id.to_string().as_str()));
    assert_ne!(found.get(headers::ID), Some(id.to_string().as_str()));
}

async fn the_owner_is_found_by_pattern_and_an_explicit_destination_wins<T: Transport + Clone>(
    world: &World<T>,
) {
    let log = Log::default();
    world.run(world.bus("owner").handler(log_place).state(log.clone())).await;
    let elsewhere = world.declare("elsewhere").await;
    let everything = world.declare("everything").await;
    let sender = world
        .bus("sender")
        .route_pattern("*", everything)
        .route_pattern("orders.pl*", world.queue("owner"))
        .handler(log_place)
        .state(Log::default())
        .build()
        .unwrap();
    sender.send(Place { id: 1 }).await.unwrap();
    assert_eq!(log.entries(1).await, ["place 1"]);
    sender.send(Cancelled { id: 2 }).await.unwrap();
    assert_eq!(&world.take("everything").await.1[..], br#"{"id":2}"#);
    sender.send(Outgoing::new(Place { id: 3 }).to(elsewhere)).await.unwrap();
    let (found, body) = world.take("elsewhere").await;
    assert_eq!(&body[..], br#"{"id":3}"#);
    assert_eq!(found.get(headers::REPLY_TO), Some(world.queue("sender").to_string().as_str()));
}

async fn cancel(command: Place, cx: Context) -> Result<()> {
    cx.send(Cancelled { id: command.id })
}

async fn a_missing_route_fails_the_handler_and_lists_the_routes<T: Transport + Clone>(world: &World<T>) {
    let builder = world.bus("orders").handler(cancel).route::<Place>(world.queue("orders"));
    let bus = world.run(builder.route_pattern("billing.*", world.queue("billing"))).await;
    bus.send(Place { id: 1 }).await.unwrap();
    let (dead, _) = world.take("dead").await;
    let cause = dead.get(headers::DEAD_CAUSE).unwrap();
    for part in ["\"orders.cancelled\"", "orders.place -> queue:", "billing.* -> queue:"] {
        assert!(cause.contains(part), "{part} is missing in {cause}");
    }
    let said = bus.send(Cancelled { id: 1 }).await.unwrap_err().to_string();
    assert!(said.contains("billing.* -> queue:"), "{said}");
}

async fn sending_outside_a_handler_returns_every_error<T: Transport + Clone>(world: &World<T>) {
    let bus = world.bus("orders").handler(log_place).state(Log::default()).build().unwrap();
    let missing = world.queue("nobody");
    let said = bus.send(Outgoing::new(Place { id: 1 }).to(missing.clone())).await.unwrap_err().to_string();
    assert!(said.contains(&missing.to_string()) && said.contains("cannot be delivered"), "{said}");
    // Its own queue does not exist either before it is declared.
    let said = bus.send_local(Place { id: 1 }).await.unwrap_err().to_string();
    assert!(said.contains("cannot be delivered"), "{said}");
    bus.declare().await.unwrap();
    bus.send_local(Place { id: 1 }).await.unwrap();
    assert_eq!(&world.take("orders").await.1[..], br#"{"id":1}"#);
    let large = Outgoing::raw("orders.place", bytes::Bytes::from(vec![0; barid::limits::BODY_BYTES_MAX + 1]));
    let said = bus.send_local(large).await.unwrap_err().to_string();
    assert!(said.contains("send a reference"), "{said}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error() {
    let nowhere = RabbitMq::new(Settings::new("amqp://guest:guest@127.0.0.1:1/%2f")).unwrap();
    let bus = barid::Bus::builder("orders").transport(nowhere).handler(log_place).state(Log::default());
    let said = bus.build().unwrap().send_local(Place { id: 1 }).await.unwrap_err().to_string();
    assert!(said.contains("cannot reach") && said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn patterns_that_leave_the_owner_open_do_not_build() {
    let queue = |name: &str| Destination::queue(name).unwrap();
    let builder = barid::Bus::builder("orders").transport(barid::Memory::new()).handler(log_place);
    let builder = builder.state(Log::default()).route_pattern("orders.*", queue("orders"));
    let error = builder.route_pattern("*.placed", queue("audit")).build().unwrap_err();
    let said = error.to_string();
    assert!(said.contains("BRD024") && said.contains("\"orders.*\" -> queue:orders"), "{said}");
}
