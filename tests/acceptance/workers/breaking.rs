//! The circuit breaker: it opens, pauses, lets one message through, closes, and loses nothing.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use barid::{BusState, Circuit, CircuitBreaker, Context, Error};
use barid_tests::eventually;

use super::{
    PATIENCE,
    stage::{KINDS, Kind, Running, Stage, Work, insert},
};

const PAUSE: Duration = Duration::from_millis(250);
const PARALLELISM: usize = 3;
const MESSAGES: i64 = 30;

fn breaker() -> CircuitBreaker {
    CircuitBreaker {
        failures_percent: 50,
        messages_min: NonZeroU32::new(4).unwrap(),
        window: Duration::from_secs(60),
        pause: PAUSE,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_pauses_receiving_while_handlers_fail_and_no_message_is_lost() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let (broken, tries) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (fails, counter) = (broken.clone(), tries.clone());
        let handler = move |work: Work, cx: Context| {
            let (broken, tries) = (fails.clone(), counter.clone());
            async move {
                insert(&cx, work.number).await?;
                tries.fetch_add(1, Ordering::SeqCst);
                if broken.load(Ordering::SeqCst) { Err(Error::new("the shop is down")) } else { Ok(()) }
            }
        };
        let bus = stage.with_unit_of_work().parallelism(PARALLELISM).circuit_breaker(breaker());
        let bus = bus.handler(handler).build().unwrap();
        stage.send(0..MESSAGES).await;
        let began = Instant::now();
        let running = Running::start(bus.clone());
        eventually(PATIENCE, "it opens", || async { bus.health().circuit == Circuit::Open }).await;
        let tried = || async { tries.load(Ordering::SeqCst) > 4 + PARALLELISM + 2 };
        eventually(PATIENCE, "it lets some messages through, one after a pause", tried).await;
        // Four open it, those under way end, and then one at a time after each pause.
        let pauses = usize::try_from(began.elapsed().as_millis() / PAUSE.as_millis()).unwrap();
        let (tries, most) = (tries.load(Ordering::SeqCst), 4 + PARALLELISM + pauses);
        assert!(tries <= most, "{kind:?}: {tries} tries in {pauses} pauses");
        assert_eq!(bus.health().handled, 0);
        assert_eq!(stage.rows().await, [0_i64; 0], "{kind:?}");
        let paused = || async { bus.health().state == BusState::Paused };
        eventually(PATIENCE, "it shows that it pauses", paused).await;
        assert_eq!(bus.health().stuck(PATIENCE), None, "{kind:?}: a bus that pauses is alive");

        broken.store(false, Ordering::SeqCst);
        eventually(PATIENCE, "it closes", || async { bus.health().circuit == Circuit::Closed }).await;
        assert_eq!(bus.health().state, BusState::Running);
        let all: Vec<_> = (0..MESSAGES).collect();
        eventually(PATIENCE, "every message is handled", || async { stage.rows().await == all }).await;
        running.stop().await;
        assert_eq!(stage.left().await, [0, 0], "{kind:?}");
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_pauses_stops_at_once() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let breaker = CircuitBreaker { pause: Duration::from_secs(600), ..breaker() };
    let handler = async |_: Work| Err::<(), _>(Error::new("the shop is down"));
    let bus = stage.builder().circuit_breaker(breaker).handler(move |work: Work| handler(work));
    let bus = bus.build().unwrap();
    stage.send(0..8).await;
    let running = Running::start(bus.clone());
    eventually(PATIENCE, "it opens", || async { bus.health().circuit == Circuit::Open }).await;
    running.stop().await;
    assert_eq!(stage.left().await, [8, 0], "what was fetched and not handled is there");
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_nothing_about_handlers_does_not_open_it() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let late = Arc::new(AtomicUsize::new(0));
        let counter = late.clone();
        // Not now, twenty times over, and the bus has to go on all the same.
        let handler = move |_: Work| {
            let late = counter.clone();
            async move {
                match late.fetch_add(1, Ordering::SeqCst) {
                    0..20 => Err(Error::later("not now")),
                    _ => Ok(()),
                }
            }
        };
        let breaker = CircuitBreaker { pause: Duration::from_secs(600), failures_percent: 1, ..breaker() };
        let bus = stage.builder().circuit_breaker(breaker).handler(handler).build().unwrap();
        stage.send_unreadable(10).await;
        stage.send(0..5).await;
        let running = Running::start(bus.clone());
        eventually(PATIENCE, "all are through", || async { bus.health().handled == 5 }).await;
        eventually(PATIENCE, "the unreadable are given up", || async { stage.left().await == [0, 10] }).await;
        assert_eq!(bus.health().circuit, Circuit::Closed, "{kind:?}");
        assert_eq!(bus.health().failed, 10, "{kind:?}: the unreadable ones are counted, those for later not");
        running.stop().await;
        stage.drop_now().await;
    }
}
