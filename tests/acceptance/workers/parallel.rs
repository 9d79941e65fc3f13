//! How many messages are handled at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use barid::{Error, Next, Position, Result, RetryPolicy, Step, pipeline::IncomingContext};
use barid_tests::eventually;
use tokio::sync::Semaphore;

use super::{
    PATIENCE,
    stage::{Journal, KINDS, Kind, Running, Stage, Work},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_five_places_a_fast_message_overtakes_a_slow_one() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let (journal, fast_is_done) = (Journal::default(), Arc::new(Semaphore::new(0)));
        let (noted, told) = (journal.clone(), fast_is_done.clone());
        let handler = move |work: Work| {
            let (journal, fast_is_done) = (noted.clone(), told.clone());
            async move {
                match work.number {
                    0 => fast_is_done.acquire().await?.forget(),
                    _ => fast_is_done.add_permits(1),
                }
                journal.note(work.number).await;
                Ok(())
            }
        };
        let bus = Running::start(stage.builder().parallelism(5).handler(handler).build().unwrap());
        stage.send(0..2).await;
        journal.until(2).await;
        assert_eq!(journal.all().await, [1, 0], "{kind:?}");
        bus.stop().await;
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_place_messages_are_handled_one_by_one_in_order() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let (journal, at_once) = (Journal::default(), Arc::new(AtomicUsize::new(0)));
        let (noted, counter) = (journal.clone(), at_once.clone());
        let handler = move |work: Work| {
            let (journal, at_once) = (noted.clone(), counter.clone());
            async move {
                if at_once.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Err(Error::permanent("two at the same time"));
                }
                tokio::task::yield_now().await;
                journal.note(work.number).await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        };
        stage.send(0..50).await;
        let bus = Running::start(stage.builder().parallelism(1).handler(handler).build().unwrap());
        journal.until(50).await;
        let health = bus.bus.clone();
        bus.stop().await;
        assert_eq!(journal.all().await, (0..50).collect::<Vec<_>>(), "{kind:?}");
        assert_eq!((health.health().handled, health.health().failed), (50, 0));
        assert_eq!(stage.left().await, [0, 0], "{kind:?}");
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_gives_its_place_back() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let journal = Journal::default();
        let noted = journal.clone();
        let handler = move |work: Work| {
            let journal = noted.clone();
            async move {
                assert!(work.number != 0, "the test asked for it");
                journal.note(work.number).await;
                Ok(())
            }
        };
        stage.send(0..6).await;
        let policy = RetryPolicy { attempts_max: 2, ..RetryPolicy::default() };
        let builder = stage.builder().parallelism(1).retry(policy);
        let bus = Running::start(builder.handler(handler).build().unwrap());
        journal.until(5).await;
        eventually(PATIENCE, "the message is given up", || async { stage.left().await == [0, 1] }).await;
        eventually(PATIENCE, "its place is free", || async { bus.bus.health().in_flight == 0 }).await;
        let health = bus.bus.health();
        assert_eq!((health.handled, health.failed), (5, 2), "{kind:?}");
        assert!(health.last_error.unwrap().text.contains("the test asked for it"));
        bus.stop().await;
        stage.drop_now().await;
    }
}

/// A step that panics outside of everything that catches panics of handlers.
struct Careless(AtomicUsize);

#[async_trait]
impl Step<IncomingContext> for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 2, "the test asked for it");
        next.run(cx).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_gives_its_place_back_and_its_message_comes_again() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let journal = Journal::default();
    let noted = journal.clone();
    let handler = move |work: Work| {
        let journal = noted.clone();
        async move {
            journal.note(work.number).await;
            Ok(())
        }
    };
    stage.send(0..5).await;
    let builder = stage.builder().parallelism(1).handler(handler);
    let builder = builder.incoming_step(Position::Before("trace"), Careless(AtomicUsize::new(0)));
    let bus = Running::start(builder.build().unwrap());
    journal.until(5).await;
    eventually(PATIENCE, "every place is free", || async { bus.bus.health().in_flight == 0 }).await;
    assert_eq!(journal.sorted().await, [0, 1, 2, 3, 4]);
    assert_eq!(bus.bus.health().failed, 3);
    bus.stop().await;
    stage.drop_now().await;
}
