//! Steps, handlers, headers and correlation.

use barid::{
    Bus, Context, Destination, Error, Headers, Memory, Next, Outgoing, Position, Result, State, Step,
    Transport, headers,
    pipeline::{IncomingContext, OutgoingContext, incoming_steps, outgoing_steps},
    transport::Inbox,
};
use uuid::Uuid;

use crate::stage::{DEAD, Journal, Place, Placed, bus, delivery};

struct Named(&'static str, Journal);

#[async_trait::async_trait]
impl Step<IncomingContext> for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        self.1.write(format!("{} in", self.0));
        let answer = next.run(cx).await;
        self.1.write(format!("{} out", self.0));
        answer
    }
}

async fn place(_: Place, journal: State<Journal>) -> Result<()> {
    journal.0.write("handler");
    Ok(())
}

#[tokio::test]
async fn steps_of_users_stand_where_they_were_put() {
    let journal = Journal::default();
    let first = incoming_steps().names().next().unwrap();
    let last = incoming_steps().names().last().unwrap();
    let step = |name| Named(name, journal.clone());
    let bus = bus(&Memory::new()).await.handler(place).state(journal.clone());
    let bus = bus
        .incoming_step(Position::Before(first), step("outermost"))
        .incoming_step(Position::After("deserialize"), step("after"))
        .incoming_step(Position::Before("after"), step("before"))
        .incoming_step(Position::Before(last), step("innermost"))
        .build()
        .unwrap();
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    let inner = ["outermost in", "before in", "after in", "innermost in", "handler"];
    let outer = ["innermost out", "after out", "before out", "outermost out"];
    assert_eq!(journal.read(), [&inner[..], &outer[..]].concat());
}

#[tokio::test]
async fn a_position_that_is_not_there_is_an_error_that_lists_the_steps() {
    let bus = bus(&Memory::new()).await.handler(place).state(Journal::default());
    let step = Named("mine", Journal::default());
    let said = bus.incoming_step(Position::After("dispatched"), step).build().unwrap_err().to_string();
    assert!(
        said.contains("BRD015") && said.contains("\"dispatched\"") && said.contains("dispatch"),
        "{said}"
    );
}

#[tokio::test]
async fn a_step_that_does_not_go_on_keeps_the_handlers_from_running() {
    struct Gate;

    #[async_trait::async_trait]
    impl Step<IncomingContext> for Gate {
        fn name(&self) -> &'static str {
            "gate"
        }

        async fn run(&self, _: &mut IncomingContext, _: Next<'_, IncomingContext>) -> Result<()> {
            Ok(())
        }
    }
    let journal = Journal::default();
    let bus = bus(&Memory::new()).await.handler(place).state(journal.clone());
    let bus = bus.incoming_step(Position::Before("dispatch"), Gate).build().unwrap();
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert!(journal.read().is_empty());
}

#[tokio::test]
async fn all_handlers_of_a_message_run_in_their_order_and_the_first_error_ends_it() {
    async fn second(cmd: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("second");
        if cmd.id < 0 { Err(Error::new("no")) } else { Ok(()) }
    }
    async fn third(_: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("third");
        Ok(())
    }
    async fn other(_: Placed, journal: State<Journal>) -> Result<()> {
        journal.0.write("another message's");
        Ok(())
    }
    for (id, ran) in [(1, &["handler", "second", "third"][..]), (-1, &["handler", "second"])] {
        let journal = Journal::default();
        let bus = bus(&Memory::new()).await.handler(other).handler(place).handler(second).handler(third);
        let bus = bus.state(journal.clone()).build().unwrap();
        assert_eq!(bus.handle(delivery(Uuid::now_v7(), id)).await.is_ok(), id > 0);
        assert_eq!(journal.read(), ran);
    }
}

#[tokio::test]
async fn a_message_without_a_handler_is_a_dead_letter() {
    async fn other(_: Placed) -> Result<()> {
        Ok(())
    }
    let network = Memory::new();
    let bus = bus(&network).await.handler(other).build().unwrap();
    let said = bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap_err().to_string();
    assert!(
        said.contains("no handler for message \"orders.place\"") && said.contains("orders.placed"),
        "{said}"
    );
    assert_eq!(network.len(DEAD), 1);
}

/// Publishes one event from the handler of a message with these headers, and returns the event's.
async fn sent(incoming: &[(&str, &str)], event: fn(Outgoing) -> Outgoing) -> (Uuid, Headers) {
    let network = Memory::new();
    network.declare(&Inbox::new("shipping").topic("orders")).await.unwrap();
    let publish =
        move |cmd: Place, cx: Context| async move { cx.publish(event(Outgoing::new(Placed { id: cmd.id }))) };
    let bus = bus(&network).await.handler(publish).build().unwrap();
    let cause = Uuid::now_v7();
    let mut delivery = delivery(cause, 1);
    for (name, value) in incoming {
        delivery.headers.set(*name, *value);
    }
    bus.handle(delivery).await.unwrap();
    let (headers, _) = network.peek("shipping").remove(0);
    (cause, headers)
}

#[tokio::test]
async fn default_headers_are_set_and_what_the_user_set_stays() {
    let (_, headers) = sent(&[], |event| event).await;
    assert_eq!(headers.get(headers::SOURCE), Some("orders"));
    assert_eq!(headers.get(headers::CONTENT_TYPE), Some("application/json"));
    assert_eq!(headers.get(headers::TYPE), Some("orders.placed"));
    assert!(headers.get(headers::SENT_AT).unwrap().ends_with('Z'), "{headers:?}");
    assert_eq!(headers.get(headers::ID).unwrap().parse::<Uuid>().unwrap().get_version_num(), 7);

    let own = |event: Outgoing| {
        event
            .id(Uuid::from_u128(7))
            .header(headers::SENT_AT, "yesterday")
            .header(headers::SOURCE, "elsewhere")
            .header("tenant", "blue")
    };
    let (_, headers) = sent(&[], own).await;
    for (name, value) in [
        (headers::ID, "00000000-0000-0000-0000-000000000007"),
        (headers::SENT_AT, "yesterday"),
        (headers::SOURCE, "elsewhere"),
        ("tenant", "blue"),
    ] {
        assert_eq!(headers.get(name), Some(value));
    }
}

#[tokio::test]
async fn a_message_carries_its_conversation_and_its_cause() {
    // Inside a handler: the conversation of the cause, or the cause itself when it began one.
    let (cause, headers) = sent(&[], |event| event).await;
    assert_eq!(headers.get(headers::CORRELATION_ID), Some(&*cause.to_string()));
    assert_eq!(headers.get(headers::CAUSATION_ID), Some(&*cause.to_string()));
    let (cause, headers) = sent(&[(headers::CORRELATION_ID, "talk")], |event| event).await;
    assert_eq!(headers.get(headers::CORRELATION_ID), Some("talk"));
    assert_eq!(headers.get(headers::CAUSATION_ID), Some(&*cause.to_string()));
    // What the user says wins.
    let own =
        |event: Outgoing| event.header(headers::CORRELATION_ID, "mine").header(headers::CAUSATION_ID, "me");
    let (_, headers) = sent(&[(headers::CORRELATION_ID, "talk")], own).await;
    assert_eq!(
        (headers.get(headers::CORRELATION_ID), headers.get(headers::CAUSATION_ID)),
        (Some("mine"), Some("me"))
    );
    // Outside a handler it begins a conversation of its own, and nothing caused it.
    let network = Memory::new();
    network.declare(&Inbox::new("shipping")).await.unwrap();
    let sender = barid::Sender::connect(&network, "web").await.unwrap();
    let to = Destination::queue("shipping").unwrap();
    sender.send(Outgoing::new(Placed { id: 1 }).id(Uuid::from_u128(9)).to(to)).await.unwrap();
    let (headers, _) = network.peek("shipping").remove(0);
    assert_eq!(headers.get(headers::CORRELATION_ID), headers.get(headers::ID));
    assert_eq!(headers.get(headers::CAUSATION_ID), None);
}

#[tokio::test]
async fn a_step_sees_and_changes_what_leaves() {
    struct Stamp;

    #[async_trait::async_trait]
    impl Step<OutgoingContext> for Stamp {
        fn name(&self) -> &'static str {
            "stamp"
        }

        async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
            assert!(cx.body().is_some(), "it is serialized");
            cx.headers().set("stamp", "blue");
            next.run(cx).await
        }
    }
    async fn publish(cmd: Place, cx: Context) -> Result<()> {
        cx.publish(Placed { id: cmd.id })
    }
    assert!(outgoing_steps().names().any(|name| name == "serialize"));
    let network = Memory::new();
    network.declare(&Inbox::new("shipping").topic("orders")).await.unwrap();
    let bus: Bus = bus(&network)
        .await
        .handler(publish)
        .outgoing_step(Position::After("serialize"), Stamp)
        .build()
        .unwrap();
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!(network.peek("shipping")[0].0.get("stamp"), Some("blue"));
}
