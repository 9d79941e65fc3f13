//! Stopping: what runs is finished within the grace period or dropped, and nothing is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use barid::{BusState, Context};
use barid_tests::eventually;
use tokio::sync::Semaphore;

use super::{
    PATIENCE,
    stage::{Journal, KINDS, Kind, Running, Stage, Work, insert},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_under_way_finish() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let (go_on, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (gate, counter) = (go_on.clone(), begun.clone());
        let handler = move |work: Work, cx: Context| {
            let (go_on, begun) = (gate.clone(), counter.clone());
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                go_on.acquire().await?.forget();
                insert(&cx, work.number).await
            }
        };
        let bus = stage.with_unit_of_work().parallelism(1).handler(handler).build().unwrap();
        let bus = Running::start(bus);
        stage.send(0..2).await;
        eventually(PATIENCE, "a handler runs", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        bus.stop.cancel();
        let stopping = || async { bus.bus.health().state == BusState::Stopping };
        eventually(PATIENCE, "the bus stops", stopping).await;
        assert_eq!(stage.rows().await, [0_i64; 0], "{kind:?}: it is still running");
        go_on.add_permits(1);
        let ended = bus.bus.clone();
        bus.ended().await.unwrap();
        assert_eq!(stage.rows().await, [0], "{kind:?}");
        assert_eq!(ended.health().state, BusState::Stopped);
        assert_eq!(begun.load(Ordering::SeqCst), 1, "{kind:?}: it received after it was told to stop");
        assert_eq!(stage.left().await[0], 1, "{kind:?}: the second message waits for the next bus");
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_over_the_grace_period_is_rolled_back_and_its_message_comes_again() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let (stuck, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (hangs, counter) = (stuck.clone(), begun.clone());
        let handler = move |work: Work, cx: Context| {
            let (stuck, begun) = (hangs.clone(), counter.clone());
            async move {
                insert(&cx, work.number).await?;
                begun.fetch_add(1, Ordering::SeqCst);
                if stuck.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        };
        let grace = Duration::from_millis(200);
        let bus = stage.with_unit_of_work().stop_grace(grace).handler(handler).build().unwrap();
        let running = Running::start(bus.clone());
        stage.send(7..8).await;
        eventually(PATIENCE, "the handler runs", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        let told = Instant::now();
        running.stop().await;
        assert!(told.elapsed() >= grace, "{kind:?}: it was dropped after {:?}", told.elapsed());
        assert_eq!(bus.health().in_flight, 0);
        assert_eq!(stage.rows().await, [0_i64; 0], "{kind:?}: it was dropped and yet committed");

        stuck.store(false, Ordering::SeqCst);
        let running = Running::start(bus);
        eventually(PATIENCE, "the message comes again", || async { stage.rows().await == [7] }).await;
        running.stop().await;
        assert_eq!((stage.rows().await, stage.left().await), (vec![7], [0, 0]), "{kind:?}");
        stage.drop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_cannot_keep_the_bus_from_stopping() {
    let stage = Stage::new(Kind::SqlQueue).await;
    let (release, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (released, started) = (release.clone(), begun.clone());
    let handler = move |_: Work| {
        let (release, begun) = (released.clone(), started.clone());
        async move {
            begun.store(true, Ordering::SeqCst);
            while !release.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
    };
    let bus = stage.builder().stop_grace(Duration::from_millis(50)).handler(handler).build().unwrap();
    let bus = Running::start(bus);
    stage.send(0..1).await;
    eventually(PATIENCE, "the handler runs", || async { begun.load(Ordering::SeqCst) }).await;
    bus.stop().await;
    release.store(true, Ordering::SeqCst);
    stage.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_again_and_again_while_receiving_loses_no_delivery() {
    for kind in KINDS {
        let stage = Stage::new(kind).await;
        let journal = Journal::default();
        let noted = journal.clone();
        let handler = move |work: Work| {
            let journal = noted.clone();
            async move {
                journal.note(work.number).await;
                Ok(())
            }
        };
        let bus = stage.builder().prefetch(4).parallelism(2).handler(handler).build().unwrap();
        stage.send(0..120).await;
        let mut stops = 0;
        while journal.all().await.len() < 120 {
            let running = Running::start(bus.clone());
            journal.until((stops * 7 + 3).min(120)).await;
            running.stop().await;
            stops += 1;
            assert_eq!(bus.health().starts, stops as u64);
        }
        assert!(stops > 5, "{kind:?}: it stopped {stops} times only");
        assert_eq!(journal.sorted().await, (0..120).collect::<Vec<_>>(), "{kind:?}");
        assert_eq!(stage.left().await, [0, 0], "{kind:?}");
        stage.drop_now().await;
    }
}
