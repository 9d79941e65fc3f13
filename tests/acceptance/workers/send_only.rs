//! A bus that only sends.

use barid::{
    Bus, BusState, Destination, Host, Outgoing, Sender,
    transport::{Inbox, Transport as _},
};
use barid_tests::{eventually, names};

use super::{
    PATIENCE,
    stage::{KINDS, Kind, Running, Stage, Work},
};

fn problems(build: Result<Bus, barid::BuildError>) -> String {
    build.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_handler_and_makes_no_queue() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let name = names::unique("sends");
        let bus = Bus::builder(&name).transport(stage.transport.clone()).send_only().build().unwrap();
        assert!(bus.settings().send_only);
        bus.declare().await.unwrap();
        let running = Running::start(bus.clone());
        eventually(PATIENCE, "it runs", || async { bus.health().state == BusState::Running }).await;
        let sender = Sender::connect(&stage.transport, "test").await.unwrap();
        let to = Destination::queue(&name).unwrap();
        let refused = sender.send(Outgoing::new(Work { number: 0 }).to(to)).await.unwrap_err().to_string();
        assert!(refused.contains(&name), "there is no such queue: {refused}");
        running.stop().await;
        assert_eq!(bus.health().state, BusState::Stopped);
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_are_refused() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let said = problems(stage.builder().send_only().handler(async |_: Work| Ok(())).build());
    assert!(said.contains("BRD081") && said.contains("handlers"), "{said}");
    let said = problems(Bus::builder("orders").transport(stage.transport.clone()).build());
    assert!(said.contains("BRD011") && said.contains(".send_only()"), "{said}");
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_and_a_queue_are_refused() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let said = problems(stage.builder().send_only().subscribe("orders").build());
    assert!(said.contains("BRD081") && said.contains("subscriptions"), "{said}");
    let said = problems(stage.builder().send_only().queue("orders").subscribe("orders").build());
    assert!(said.contains("subscriptions and a queue"), "{said}");
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lives_in_a_host_beside_a_bus_that_receives() {
    let stage = Stage::new(Kind::RabbitMq).await;
    let (receives, journal) = super::hosting::noting(&stage);
    let sends = Bus::builder("sends").transport(stage.transport.clone()).send_only().build().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let host = Host::new().bus(receives).bus(sends.clone()).run_until(stop.clone().cancelled_owned());
    let host = tokio::spawn(host);
    stage.transport.declare(&Inbox::new(&stage.queue)).await.unwrap();
    stage.send(0..1).await;
    journal.until(1).await;
    eventually(PATIENCE, "it runs", || async { sends.health().state == BusState::Running }).await;
    stop.cancel();
    super::stage::within(host).await.unwrap().unwrap();
    stage.drop_now().await;
}
