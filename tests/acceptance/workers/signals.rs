//! SIGTERM and SIGINT: this process sends them to itself, while a host listens.

use std::{process::Command, sync::Arc};

use barid::{BusState, Context, Host, HostError};
use barid_tests::eventually;
use tokio::sync::{Semaphore, oneshot};

use super::{
    PATIENCE,
    stage::{Kind, Stage, Work, insert, within},
};

/// A signal reaches every host of the process.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn signal(name: &str) {
    let sent = Command::new("kill").args([name, &std::process::id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A bus with a handler under way that waits for a permit; told to stop by a first signal.
async fn stopping() -> (Stage, barid::Bus, Arc<Semaphore>, tokio::task::JoinHandle<Result<(), HostError>>) {
    let stage = Stage::new(Kind::SqlQueue).await;
    let go_on = Arc::new(Semaphore::new(0));
    let gate = go_on.clone();
    let handler = move |work: Work, cx: Context| {
        let go_on = gate.clone();
        async move {
            insert(&cx, work.number).await?;
            go_on.acquire().await?.forget();
            Ok(())
        }
    };
    let bus = stage.with_unit_of_work().handler(handler).build().unwrap();
    let (told, ready) = oneshot::channel();
    let host = tokio::spawn(Host::new().bus(bus.clone()).on_ready(|| told.send(()).unwrap()).run());
    within(ready).await.unwrap();
    stage.send(0..1).await;
    eventually(PATIENCE, "the handler runs", || async { bus.health().in_flight == 1 }).await;
    signal("-TERM");
    eventually(PATIENCE, "it stops", || async { bus.health().state == BusState::Stopping }).await;
    (stage, bus, go_on, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_signal_stops_gracefully() {
    let _one = ONE_AT_A_TIME.lock().await;
    let (stage, bus, go_on, host) = stopping().await;
    go_on.add_permits(1);
    within(host).await.unwrap().unwrap();
    assert_eq!((bus.health().state, stage.rows().await), (BusState::Stopped, vec![0]));
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_ends_at_once_and_what_runs_is_rolled_back() {
    let _one = ONE_AT_A_TIME.lock().await;
    let (stage, bus, _go_on, host) = stopping().await;
    signal("-INT");
    let said = within(host).await.unwrap().unwrap_err().to_string();
    assert!(said.contains("BRD086"), "{said}");
    eventually(PATIENCE, "the handler is gone", || async { bus.health().in_flight == 0 }).await;
    eventually(PATIENCE, "the bus is gone", || async { bus.health().state == BusState::Stopped }).await;
    assert_eq!(
        (stage.rows().await, stage.left().await),
        (vec![], [1, 0]),
        "it is rolled back and comes again"
    );
    stage.drop_now().await;
}
