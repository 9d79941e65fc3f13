//! Several buses in one process, hooks around them, and stopping.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Backoff, Bus, BusState, Error, Host, HostError, Memory, RestartPolicy, Result, State, health::Stuck,
};
use barid_tests::eventually;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    faulty::Faulty,
    stage::{Journal, PATIENCE, Place, Running, bus},
};

async fn note(cmd: Place, journal: State<Journal>) -> Result<()> {
    journal.0.write(cmd.id.to_string());
    Ok(())
}

/// A bus with a queue, a transport and faults of its own.
struct Member {
    bus: Bus,
    transport: Faulty,
    journal: Journal,
}

impl Member {
    fn new(name: &str) -> Self {
        let (transport, journal) = (Faulty::new(Memory::new()), Journal::default());
        let bus = Bus::builder(name).transport(transport.clone()).handler(note).state(journal.clone());
        Self { bus: bus.build().unwrap(), transport, journal }
    }

    async fn is(&self, state: BusState) {
        let what = format!("{} is {state:?}", self.bus.name());
        eventually(PATIENCE, &what, || async { self.bus.health().state == state }).await;
    }

    /// It handles what is sent to it.
    async fn works(&self) {
        let before = self.journal.read().len();
        self.bus.send_local(Place { id: 1 }).await.unwrap();
        self.journal.until(before + 1).await;
    }
}

struct Hosted {
    stop: CancellationToken,
    task: JoinHandle<Result<(), HostError>>,
}

impl Hosted {
    fn start(host: Host) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(host.run_until(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), HostError> {
        self.stop.cancel();
        self.ended().await
    }

    async fn ended(self) -> Result<(), HostError> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the host ends").unwrap()
    }
}

fn after(pause: Duration) -> RestartPolicy {
    RestartPolicy::Restart(Backoff::new([pause]).unwrap())
}

#[tokio::test]
async fn stopping_waits_for_a_handler_under_way() {
    async fn place(_: Place, journal: State<Journal>, go_on: State<Arc<Semaphore>>) -> Result<()> {
        journal.0.write("begins");
        go_on.0.acquire().await?.forget();
        journal.0.write("ends");
        Ok(())
    }
    let (network, journal, go_on) = (Memory::new(), Journal::default(), Arc::new(Semaphore::new(0)));
    let builder = bus(&network).await.handler(place).state(journal.clone());
    let running = Running::start(builder.state(Arc::clone(&go_on))).await;
    running.bus.send_local(Place { id: 1 }).await.unwrap();
    journal.until(1).await;
    running.tell();
    let stopping = || async { running.bus.health().state == BusState::Stopping };
    eventually(PATIENCE, "it stops", stopping).await;
    running.bus.send_local(Place { id: 2 }).await.unwrap();
    go_on.add_permits(1);
    running.stop().await;
    assert_eq!(journal.read(), ["begins", "ends"]);
    assert_eq!(network.len("orders"), 1, "nothing was received any more");
}

#[tokio::test]
async fn it_is_ready_when_all_have_started_and_runs_until_it_is_told_to_stop() {
    let (one, two) = (Member::new("one"), Member::new("two"));
    one.transport.faults.refuse(2);
    let (told, ready) = oneshot::channel();
    let looks = [one.bus.clone(), two.bus.clone()];
    let host = Host::new().bus(one.bus.clone()).bus(two.bus.clone()).restart(after(Duration::from_millis(5)));
    let host = host.on_ready(move || told.send(looks.map(|bus| bus.health().starts)).unwrap());
    let hosted = Hosted::start(host);
    assert_eq!(ready.await.unwrap(), [3, 1], "it waited for the one that failed to start");
    one.works().await;
    two.works().await;
    hosted.stop().await.unwrap();
    assert_eq!([one.bus.health().state, two.bus.health().state], [BusState::Stopped; 2]);
}

#[tokio::test]
async fn without_buses_it_is_ready_at_once() {
    let (told, ready) = oneshot::channel();
    let hosted = Hosted::start(Host::new().on_ready(|| told.send(()).unwrap()));
    ready.await.unwrap();
    hosted.stop().await.unwrap();
}

#[tokio::test]
async fn a_bus_that_crashed_is_started_again_and_the_others_do_not_notice() {
    let (one, two) = (Member::new("one"), Member::new("two"));
    let host = Host::new().bus(one.bus.clone()).bus(two.bus.clone()).restart(after(Duration::from_millis(5)));
    let hosted = Hosted::start(host);
    two.is(BusState::Running).await;
    one.is(BusState::Running).await;
    one.transport.faults.lose();
    eventually(PATIENCE, "it is started again", || async { one.bus.health().starts == 2 }).await;
    one.is(BusState::Running).await;
    one.works().await;
    two.works().await;
    assert_eq!(two.bus.health().starts, 1);
    hosted.stop().await.unwrap();
}

#[tokio::test]
async fn a_bus_is_not_started_again_while_the_host_stops() {
    let one = Member::new("one");
    let hosted = Hosted::start(Host::new().bus(one.bus.clone()).restart(after(10 * PATIENCE)));
    one.is(BusState::Running).await;
    one.transport.faults.lose();
    one.is(BusState::Crashed).await;
    hosted.stop().await.unwrap();
    assert_eq!(one.bus.health().starts, 1);
}

/// Hooks that write what they do; the one that is named fails.
fn hooked(mut host: Host, journal: &Journal, failing: &'static str) -> Host {
    for name in ["a", "b"] {
        let note = |what: &str| {
            let (entry, journal) = (format!("{what} {name}"), journal.clone());
            async move || {
                let fails = entry == failing;
                journal.write(entry);
                if fails { Err(Error::new("asked for")) } else { Ok(()) }
            }
        };
        host = host.hook(name, note("start"), note("stop"));
    }
    host
}

#[tokio::test]
async fn hooks_run_around_the_buses() {
    for (failing, expected) in [
        ("nothing", &["start a", "start b", "stop b", "stop a"][..]),
        ("stop b", &["start a", "start b", "stop b", "stop a"]),
        // Ours undoes the hooks before the one that failed.
        ("start b", &["start a", "start b", "stop a"]),
    ] {
        let (one, journal) = (Member::new("one"), Journal::default());
        let hosted = Hosted::start(hooked(Host::new().bus(one.bus.clone()), &journal, failing));
        let ended = if failing == "start b" {
            hosted.ended().await
        } else {
            one.is(BusState::Running).await;
            hosted.stop().await
        };
        assert_eq!(journal.read(), expected, "{failing}");
        match ended {
            Ok(()) => assert_eq!(failing, "nothing"),
            Err(error) => assert!(error.to_string().contains("BRD085"), "{error}"),
        }
        assert_eq!(one.bus.health().starts, u64::from(failing != "start b"));
    }
}

#[tokio::test]
async fn without_restarts_a_crash_ends_the_host_and_the_stop_hooks_run_all_the_same() {
    let (one, two, journal) = (Member::new("one"), Member::new("two"), Journal::default());
    let host = Host::new().bus(one.bus.clone()).bus(two.bus.clone()).restart(RestartPolicy::Never);
    let hosted = Hosted::start(hooked(host, &journal, "nothing"));
    one.is(BusState::Running).await;
    two.is(BusState::Running).await;
    one.transport.faults.lose();
    let said = hosted.ended().await.unwrap_err().to_string();
    assert!(said.contains("BRD084") && said.contains("\"one\"") && said.contains("it is gone"), "{said}");
    assert_eq!(two.bus.health().state, BusState::Stopped);
    assert_eq!(journal.read(), ["start a", "start b", "stop b", "stop a"]);
}

#[tokio::test]
async fn a_bus_that_hangs_is_told_once_and_an_idle_one_is_not() {
    async fn place(_: Place, go_on: State<Arc<Semaphore>>) -> Result<()> {
        go_on.0.acquire().await?.forget();
        Ok(())
    }
    let (network, go_on, told) =
        (Memory::new(), Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let busy = bus(&network).await.parallelism(1).handler(place).state(Arc::clone(&go_on)).build().unwrap();
    busy.declare().await.unwrap();
    let idle = Member::new("idle");
    let telling = Arc::clone(&told);
    // An idle bus gives a sign of life every second.
    let patience = Duration::from_millis(2_500);
    let host = Host::new().bus(busy.clone()).bus(idle.bus.clone()).liveness(patience);
    let host = host.on_liveness(move |change| telling.lock().unwrap().push(change.clone()));
    let hosted = Hosted::start(host);
    let count = |wanted| {
        let told = Arc::clone(&told);
        move || {
            let enough = told.lock().unwrap().len() >= wanted;
            async move { enough }
        }
    };
    busy.send_local(Place { id: 1 }).await.unwrap();
    eventually(PATIENCE, "it is told", count(1)).await;
    let long = || async { busy.health().oldest_in_flight.is_some_and(|age| age > 2 * patience) };
    eventually(PATIENCE, "it goes on hanging", long).await;
    go_on.add_permits(1);
    eventually(PATIENCE, "it responds again", count(2)).await;
    hosted.stop().await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|change| change.bus == "orders") && told.len() == 2, "{told:?}");
    assert!(matches!(told[0].stuck, Some(Stuck::Handlers(age)) if age > patience), "{told:?}");
    assert!(told[1].stuck.is_none(), "{told:?}");
}
