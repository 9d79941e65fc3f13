//! Signs of life, pauses after failing receives, and the rate limit.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use barid::{Bus, BusState, RateLimit, health::Stuck};
use barid_tests::eventually;
use tokio::sync::Semaphore;

use super::{
    PATIENCE,
    stage::{Journal, KINDS, Kind, Running, Stage, Work},
};

const MS: Duration = Duration::from_millis(1);

fn noting(
    journal: &Journal,
) -> impl Fn(Work) -> futures::future::BoxFuture<'static, barid::Result<()>> + use<> {
    let journal = journal.clone();
    move |work: Work| {
        let journal = journal.clone();
        Box::pin(async move {
            journal.note(work.number).await;
            Ok(())
        })
    }
}

/// Waits until the bus gave `count` signs of life while nobody watched it.
async fn beats(bus: &Bus, count: usize) {
    let (mut seen, mut last) = (0, Duration::ZERO);
    eventually(PATIENCE, "an idle bus gives signs of life", || {
        let age = bus.health().heartbeat_age.unwrap_or_default();
        seen += usize::from(age < last);
        last = age;
        let enough = seen >= count;
        async move { enough }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heartbeat_is_young_when_idle_and_old_when_receiving_hangs() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let journal = Journal::default();
    let bus = stage.builder().handler(noting(&journal)).build().unwrap();
    assert_eq!(bus.health().heartbeat_age, None, "before its first start");
    assert_eq!(bus.health().state, BusState::Stopped);
    let running = Running::start(bus.clone());
    beats(&bus, 3).await;
    assert_eq!(bus.health().state, BusState::Running);

    stage.transport.faults.hang(true);
    let patience = Duration::from_secs(3);
    let hangs =
        || async { matches!(bus.health().stuck(patience), Some(Stuck::Worker(age)) if age > patience) };
    eventually(PATIENCE, "the bus is seen to hang", hangs).await;
    stage.transport.faults.hang(false);
    eventually(PATIENCE, "it is well again", || async { bus.health().stuck(patience).is_none() }).await;
    stage.send(0..1).await;
    journal.until(1).await;
    running.stop().await;
    assert_eq!(bus.health().stuck(Duration::ZERO), None, "one that was stopped is not stuck");
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_receive_that_blocks_its_thread_is_seen() {
    let stage = Stage::new(Kind::RabbitMq).await;
    let journal = Journal::default();
    let bus = stage.builder().handler(noting(&journal)).build().unwrap();
    let running = Running::start(bus.clone());
    beats(&bus, 2).await;
    stage.transport.faults.block(true);
    let patience = Duration::from_secs(3);
    let hangs = || async { matches!(bus.health().stuck(patience), Some(Stuck::Worker(_))) };
    eventually(PATIENCE, "the bus is seen to hang", hangs).await;
    stage.transport.faults.block(false);
    stage.send(0..1).await;
    journal.until(1).await;
    running.stop().await;
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_hang_are_told_apart_from_a_worker_that_hangs() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let go_on = Arc::new(Semaphore::new(0));
        let gate = go_on.clone();
        let handler = move |_: Work| {
            let go_on = gate.clone();
            async move {
                go_on.acquire().await?.forget();
                Ok(())
            }
        };
        let bus = stage.builder().parallelism(2).handler(handler).build().unwrap();
        let running = Running::start(bus.clone());
        stage.send(0..1).await;
        eventually(PATIENCE, "one handler hangs", || async { bus.health().in_flight == 1 }).await;
        beats(&bus, 2).await;
        let patience = Duration::from_millis(1_500);
        assert_eq!(bus.health().stuck(patience), None, "{kind:?}: there is a free place");
        stage.send(1..3).await;
        let hang =
            || async { matches!(bus.health().stuck(patience), Some(Stuck::Handlers(age)) if age > patience) };
        eventually(PATIENCE, "the handlers are seen to hang", hang).await;
        let health = bus.health();
        assert_eq!((health.in_flight, health.parallelism), (2, 2), "{kind:?}");
        assert!(health.oldest_in_flight >= health.youngest_in_flight);
        go_on.add_permits(3);
        eventually(PATIENCE, "they end", || async { bus.health().handled == 3 }).await;
        assert_eq!((bus.health().stuck(patience), bus.health().in_flight), (None, 0));
        running.stop().await;
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_receives_pause_longer_and_longer_up_to_the_last_step() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let journal = Journal::default();
        let steps = [20 * MS, 50 * MS, 120 * MS];
        let bus = stage.builder().error_backoff(steps).handler(noting(&journal)).build().unwrap();
        stage.transport.faults.fail(6);
        stage.send(0..1).await;
        let running = Running::start(bus.clone());
        journal.until(1).await;
        let pauses = stage.transport.faults.pauses();
        let expected = [20 * MS, 50 * MS, 120 * MS, 120 * MS, 120 * MS];
        let waited = pauses.iter().zip(expected).all(|(pause, step)| *pause >= step);
        assert!(pauses.len() == 5 && waited, "{kind:?}: {pauses:?}");
        assert_eq!(bus.health().receive_failures, 0, "a delivery says that it works again");
        assert!(bus.health().last_error.unwrap().text.contains("the test asked for it"));
        running.stop().await;
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_begins_the_error_pauses_anew_and_so_does_a_quiet_time() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let journal = Journal::default();
        // Whoever comes to the second step waits longer than this test does.
        let bus = stage.builder().error_backoff([10 * MS, 10 * PATIENCE]).handler(noting(&journal));
        let bus = bus.build().unwrap();
        let running = Running::start(bus.clone());
        for number in 0..3 {
            stage.transport.faults.fail(1);
            stage.send(number..number + 1).await;
            journal.until(usize::try_from(number).unwrap() + 1).await;
        }
        for _ in 0..2 {
            stage.transport.faults.fail(1);
            eventually(PATIENCE, "it fails", || async { bus.health().receive_failures == 1 }).await;
            eventually(PATIENCE, "the quiet time counts", || async { bus.health().receive_failures == 0 })
                .await;
        }
        running.stop().await;
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_looks_as_seldom_as_it_was_told() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let bus = stage.builder().receive_backoff([Duration::from_secs(4)]).handler(noting(&Journal::default()));
    let bus = bus.build().unwrap();
    let running = Running::start(bus.clone());
    // Between two looks nothing is heard of the database.
    let long = || async { bus.health().heartbeat_age.is_some_and(|age| age > Duration::from_secs(2)) };
    eventually(PATIENCE, "there is a long time between two looks", long).await;
    beats(&bus, 1).await;
    running.stop().await;
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_limit_spreads_messages_and_lets_a_burst_pass() {
    let number = |number| NonZeroU32::new(number).unwrap();
    for kind in KINDS {
        for (burst, at_least) in [(1, 500 * MS), (5, 300 * MS)] {
            let stage = Stage::new(kind).await;
            let journal = Journal::default();
            stage.send(0..11).await;
            let limit = RateLimit::per_second(number(20)).burst(number(burst));
            let bus = stage.builder().rate_limit(limit).handler(noting(&journal)).build().unwrap();
            let began = Instant::now();
            let running = Running::start(bus);
            journal.until(11).await;
            let took = began.elapsed();
            assert!(took >= at_least, "{kind:?}, burst {burst}: 11 messages in {took:?}");
            running.stop().await;
            assert_eq!(journal.sorted().await, (0..11).collect::<Vec<_>>());
            stage.drop_now().await;
        }
    }
}
