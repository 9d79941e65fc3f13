//! Starting and stopping.

use std::sync::{Arc, Mutex};

use barid::{Context, Error, Host, Memory, Result, Transport, transport::Inbox};

use crate::stage::{Place, Placed, Stage, run};

async fn place(_: Place, _: Context) -> Result<()> {
    Ok(())
}

async fn placed(event: Placed, cx: Context) -> Result<()> {
    crate::stage::effect(&cx, event.id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w26_a_bus_subscribes_for_handlers_that_were_added_after_it_was_told_to() {
    let stage = Stage::new().await;
    let bus = stage.bus().auto_subscribe().handler(placed).build().unwrap();
    bus.declare().await.unwrap();
    let orders = barid::Bus::builder("web").transport(stage.queue.clone()).send_only().build().unwrap();
    orders.publish(Placed { id: 1 }).await.unwrap();
    let running = run(bus.clone());
    stage.becomes("SELECT count(*) FROM effects", 1).await;
    running.stop().await;
    // Unsubscribing is no error, however often.
    for _ in 0..2 {
        bus.unsubscribe::<Placed>().await.unwrap();
    }
    orders.publish(Placed { id: 2 }).await.unwrap();
    assert_eq!(stage.waiting(crate::stage::ORDERS).await, 0);
    stage.end().await;
}

#[tokio::test]
async fn w26_a_start_that_fails_undoes_what_had_started_in_reverse() {
    let network = Memory::new();
    network.declare(&Inbox::new("orders")).await.unwrap();
    let bus = barid::Bus::builder("orders").transport(network).handler(place).build().unwrap();
    let journal = Arc::new(Mutex::new(Vec::new()));
    let write = |entry: &'static str, fails: bool| {
        let journal = Arc::clone(&journal);
        move || {
            journal.lock().unwrap().push(entry);
            let answer: Result<()> = if fails { Err(Error::new("no")) } else { Ok(()) };
            std::future::ready(answer)
        }
    };
    let host = Host::new()
        .bus(bus)
        .hook("one", write("start one", false), write("stop one", false))
        .hook("two", write("start two", false), write("stop two", true))
        .hook("three", write("start three", true), write("stop three", false));
    let said = host.run_until(std::future::pending()).await.unwrap_err().to_string();
    assert!(said.contains("three"), "{said}");
    assert_eq!(*journal.lock().unwrap(), ["start one", "start two", "start three", "stop two", "stop one"]);
}
