//! Several buses in one process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barid::{
    Backoff, Bus, BusState, Error, Host, HostError, Liveness, Memory, RestartPolicy, SqlUnitOfWork,
    health::Stuck,
};
use barid_tests::{TestDatabase, eventually};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    PATIENCE,
    stage::{Journal, Kind, Stage, Work, within},
};

/// A bus on a stage that notes what it handles.
pub(crate) fn noting(stage: &Stage) -> (Bus, Journal) {
    let journal = Journal::default();
    let noted = journal.clone();
    let handler = move |work: Work| {
        let journal = noted.clone();
        async move {
            journal.note(work.number).await;
            Ok(())
        }
    };
    (stage.builder().handler(handler).build().unwrap(), journal)
}

fn soon() -> RestartPolicy {
    RestartPolicy::Restart(Backoff::new([Duration::from_millis(20)]).unwrap())
}

fn never_soon() -> RestartPolicy {
    RestartPolicy::Restart(Backoff::new([10 * PATIENCE]).unwrap())
}

/// A host that runs.
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
        within(self.task).await.unwrap()
    }
}

async fn is(bus: &Bus, state: BusState) {
    let what = format!("{} is {state:?}", bus.name());
    eventually(PATIENCE, &what, || async { bus.health().state == state }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_its_buses_until_it_is_told_to_stop() {
    let (one, two) = (Stage::new(Kind::SqlQueue).await, Stage::new(Kind::RabbitMq).await);
    let ((bus_one, journal_one), (bus_two, journal_two)) = (noting(&one), noting(&two));
    let (told, ready) = oneshot::channel();
    let host = Host::new().bus(bus_one.clone()).bus(bus_two.clone()).on_ready(|| told.send(()).unwrap());
    let hosted = Hosted::start(host);
    within(ready).await.unwrap();
    assert_eq!([bus_one.health().state, bus_two.health().state], [BusState::Running; 2]);
    one.send(0..3).await;
    two.send(0..3).await;
    journal_one.until(3).await;
    journal_two.until(3).await;
    hosted.stop().await.unwrap();
    assert_eq!([bus_one.health().state, bus_two.health().state], [BusState::Stopped; 2]);
    one.drop_now().await;
    two.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_crashed_is_started_again_while_the_other_goes_on() {
    let (one, two) = (Stage::new(Kind::RabbitMq).await, Stage::new(Kind::SqlQueue).await);
    let ((bus_one, journal_one), (bus_two, journal_two)) = (noting(&one), noting(&two));
    let ready = Arc::new(AtomicUsize::new(0));
    let counter = ready.clone();
    let host = Host::new().bus(bus_one.clone()).bus(bus_two.clone()).restart(soon()).on_ready(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let hosted = Hosted::start(host);
    eventually(PATIENCE, "both are ready", || async { ready.load(Ordering::SeqCst) == 1 }).await;
    for (crash, starts) in [(0, 2), (1, 3)] {
        match crash {
            0 => one.transport.faults.lose(),
            _ => one.transport.faults.panic(),
        }
        eventually(PATIENCE, "it is started again", || async { bus_one.health().starts == starts }).await;
        let number = i64::from(crash);
        one.send(number..number + 1).await;
        two.send(number..number + 1).await;
        journal_one.until(crash as usize + 1).await;
        journal_two.until(crash as usize + 1).await;
    }
    assert_eq!(bus_two.health().starts, 1, "the other one never noticed");
    hosted.stop().await.unwrap();
    assert_eq!(ready.load(Ordering::SeqCst), 1, "ready is told once");
    one.drop_now().await;
    two.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_is_not_started_again_while_the_host_stops() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let (bus, _) = noting(&stage);
    let hosted = Hosted::start(Host::new().bus(bus.clone()).restart(never_soon()));
    is(&bus, BusState::Running).await;
    stage.transport.faults.lose();
    is(&bus, BusState::Crashed).await;
    assert!(bus.health().last_error.unwrap().text.contains("it is gone"));
    // It waits to be started again, for longer than this test has time.
    hosted.stop().await.unwrap();
    assert_eq!(bus.health().starts, 1);
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_restarts_a_crash_stops_the_others_and_is_what_the_host_returns() {
    let (one, two) = (Stage::new(Kind::SqlQueue).await, Stage::new(Kind::SqlQueue).await);
    for panics in [false, true] {
        let ((bus_one, _), (bus_two, _)) = (noting(&one), noting(&two));
        let host = Host::new().bus(bus_one.clone()).bus(bus_two.clone()).restart(RestartPolicy::Never);
        let hosted = Hosted::start(host);
        is(&bus_one, BusState::Running).await;
        is(&bus_two, BusState::Running).await;
        match panics {
            false => one.transport.faults.lose(),
            true => one.transport.faults.panic(),
        }
        let error = hosted.ended().await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("BRD084") && said.contains(&one.queue), "{said}");
        assert_eq!(matches!(error, HostError::Panicked { .. }), panics, "{said}");
        assert_eq!(bus_one.health().state, BusState::Crashed);
        assert_eq!(bus_two.health().state, BusState::Stopped);
    }
    one.drop_now().await;
    two.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_waits_for_a_start_that_fails_in_a_way_that_passes() {
    let (one, two) = (Stage::new(Kind::SqlQueue).await, Stage::new(Kind::SqlQueue).await);
    let ((bus_one, journal), (bus_two, _)) = (noting(&one), noting(&two));
    one.transport.faults.refuse(3);
    let (told, ready) = oneshot::channel();
    let looks = [bus_one.clone(), bus_two.clone()];
    let host = Host::new().bus(bus_one.clone()).bus(bus_two).restart(soon());
    let hosted =
        Hosted::start(host.on_ready(move || told.send(looks.map(|bus| bus.health().starts)).unwrap()));
    assert_eq!(within(ready).await.unwrap(), [4, 1]);
    one.send(0..1).await;
    journal.until(1).await;
    hosted.stop().await.unwrap();
    one.drop_now().await;
    two.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_buses_it_is_ready_at_once_and_waits_to_be_stopped() {
    let (told, ready) = oneshot::channel();
    let hosted = Hosted::start(Host::new().on_ready(|| told.send(()).unwrap()));
    within(ready).await.unwrap();
    assert!(!hosted.task.is_finished());
    hosted.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_cannot_work_ends_the_host() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let (well, _) = noting(&stage);
    // A database without the schema.
    let empty = TestDatabase::sqlite().await;
    let unit = SqlUnitOfWork::new(empty.pool.clone()).commit_with_transaction(true);
    let bus = Bus::builder("bare").transport(Memory::new()).unit_of_work(unit);
    let bus = bus.handler(async |_: Work| Ok(())).build().unwrap();
    let hosted = Hosted::start(Host::new().bus(well.clone()).bus(bus.clone()).restart(never_soon()));
    let said = hosted.ended().await.unwrap_err().to_string();
    for part in ["BRD084", "\"bare\"", "schema apply", "start the process again"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    assert_eq!(bus.health().starts, 1);
    assert_eq!(well.health().state, BusState::Stopped, "the others were stopped");
    stage.drop_now().await;
    empty.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_hangs_is_told_once_and_once_when_it_responds_again() {
    let (one, two) = (Stage::new(Kind::SqlQueue).await, Stage::new(Kind::SqlQueue).await);
    let ((bus_one, journal), (bus_two, _)) = (noting(&one), noting(&two));
    let told: Arc<Mutex<Vec<Liveness>>> = Arc::default();
    let telling = told.clone();
    let patience = Duration::from_millis(2_500);
    let host = Host::new().bus(bus_one.clone()).bus(bus_two.clone()).liveness(patience);
    let hosted = Hosted::start(host.on_liveness(move |change| telling.lock().unwrap().push(change.clone())));
    is(&bus_one, BusState::Running).await;
    one.transport.faults.hang(true);
    let count = |wanted| {
        let told = told.clone();
        move || {
            let enough = told.lock().unwrap().len() >= wanted;
            async move { enough }
        }
    };
    eventually(PATIENCE, "it is told", count(1)).await;
    // Long enough for several more looks.
    let older = || async { bus_one.health().heartbeat_age.is_some_and(|age| age > 2 * patience) };
    eventually(PATIENCE, "it goes on hanging", older).await;
    one.transport.faults.hang(false);
    eventually(PATIENCE, "it is told again", count(2)).await;
    one.send(0..1).await;
    journal.until(1).await;
    hosted.stop().await.unwrap();
    let told = told.lock().unwrap().clone();
    let of_one: Vec<_> = told.iter().filter(|change| change.bus == bus_one.name()).collect();
    assert_eq!(of_one.len(), told.len(), "the idle one was not told of: {told:?}");
    assert!(matches!(of_one[0].stuck, Some(Stuck::Worker(age)) if age > patience), "{told:?}");
    assert!(of_one.len() == 2 && of_one[1].stuck.is_none(), "{told:?}");
    one.drop_now().await;
    two.drop_now().await;
}

/// What hooks did, in order.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<String>>>);

impl Order {
    fn hook(&self, host: Host, name: &'static str, start_fails: bool, stop_fails: bool) -> Host {
        let note = |what: &'static str, fails: bool| {
            let order = self.clone();
            move || async move {
                order.0.lock().unwrap().push(format!("{what} {name}"));
                assert!(!(fails && name == "panics"), "the test asked for it");
                if fails { Err(Error::new("the test asked for it")) } else { Ok(()) }
            }
        };
        host.hook(name, note("start", start_fails), note("stop", stop_fails))
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_hook_that_fails_undoes_those_before_it_in_reverse_order() {
    let stage = Stage::new(Kind::SqlQueue).await;
    for fails in ["c", "panics"] {
        let (bus, _) = noting(&stage);
        let order = Order::default();
        let host = order.hook(Host::new().bus(bus.clone()), "a", false, false);
        let host = order.hook(order.hook(host, "b", false, true), fails, true, false);
        let host = order.hook(host, "d", false, false);
        let said = Hosted::start(host).ended().await.unwrap_err().to_string();
        assert!(said.contains("BRD085") && said.contains("start hook") && said.contains(fails), "{said}");
        let started = format!("start {fails}");
        assert_eq!(order.all(), ["start a", "start b", &started, "stop b", "stop a"]);
        assert_eq!(bus.health().starts, 0, "no bus starts");
    }
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_hooks_run_in_reverse_order_even_when_the_bus_ended_with_an_error() {
    let stage = Stage::new(Kind::SqlQueue).await;
    for crashes in [false, true] {
        let (bus, _) = noting(&stage);
        let order = Order::default();
        let host = Host::new().bus(bus.clone()).restart(RestartPolicy::Never);
        let host = order.hook(order.hook(host, "a", false, false), "b", false, true);
        let hosted = Hosted::start(order.hook(host, "c", false, false));
        is(&bus, BusState::Running).await;
        if crashes {
            stage.transport.faults.lose();
            is(&bus, BusState::Crashed).await;
        }
        let said = hosted.stop().await.unwrap_err().to_string();
        let code = if crashes { "BRD084" } else { "BRD085" };
        assert!(said.contains(code), "the first error is the one that is returned: {said}");
        assert_eq!(order.all(), ["start a", "start b", "start c", "stop c", "stop b", "stop a"]);
    }
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_runs_once_at_a_time() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let (bus, _) = noting(&stage);
    let hosted = Hosted::start(Host::new().bus(bus.clone()));
    is(&bus, BusState::Running).await;
    let said = bus.run_until(std::future::pending()).await.unwrap_err().to_string();
    assert!(said.contains("BRD080") && said.contains(bus.name()), "{said}");
    assert_eq!(bus.health().state, BusState::Running, "the one that runs goes on");
    hosted.stop().await.unwrap();
    stage.drop_now().await;
}
