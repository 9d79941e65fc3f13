//! The schedule on every database and in memory: what is due leaves once, in order, and nothing else does.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use barid::Schedule;
use barid_tests::Proxy;
use chrono::{DateTime, TimeDelta, Utc};
use databases::{Kind, run};
use place::{Act, Place, Running, handle, note, past};
use uuid::Uuid;

mod databases;
#[path = "schedule/place.rs"]
mod place;

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_due_leaves_in_the_order_of_due_time_and_id() {
    for place in Place::all().await {
        let bus = place.bus();
        let ids: Vec<Uuid> = (0..8).map(|_| Uuid::now_v7()).collect();
        for at in [5, 2, 7, 0, 3, 6, 1, 4] {
            // Two of them at each time.
            let when = past(i64::try_from(at / 2).unwrap());
            assert_eq!(bus.schedule(when, note(at.to_string()).id(ids[at])).await.unwrap(), ids[at]);
        }
        let began = Instant::now();
        bus.defer(SOON, note("later")).await.unwrap();
        let running = Running::start(bus);
        let left = place.left_becomes(8).await;
        assert_eq!(left[..8], ["0", "1", "2", "3", "4", "5", "6", "7"], "{}", place.what);
        let left = place.left_becomes(9).await;
        // Databases compare in milliseconds, some of them.
        assert!(began.elapsed() + Duration::from_millis(2) >= SOON, "{}: too early", place.what);
        assert_eq!(left[8], "later", "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn what_is_cancelled_before_it_is_due_never_leaves() {
    for place in Place::all().await {
        let bus = place.bus();
        let id = bus.defer(SOON, note("cancelled")).await.unwrap();
        let kept = bus.defer(SOON, note("kept")).await.unwrap();
        assert!(bus.cancel(id).await.unwrap(), "{}", place.what);
        assert!(!bus.cancel(id).await.unwrap(), "{}: it is gone already", place.what);
        let running = Running::start(bus.clone());
        assert_eq!(place.left_becomes(1).await, ["kept"], "{}", place.what);
        assert!(!bus.cancel(kept).await.unwrap(), "{}: it has left", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_handler_schedules_and_cancels_with_its_commit() {
    for place in Place::all().await {
        let bus = place.bus();
        let [first, second, third] = [(); 3].map(|()| Uuid::now_v7());
        let outside = bus.defer(SOON, note("outside")).await.unwrap();
        let told = Act {
            defer: vec![(0, first, "first".into()), (0, second, "second".into()), (0, third, "old".into())],
            cancel: vec![second, third, outside, Uuid::now_v7()],
            defer_again: vec![(300, third, "new".into())],
            fails: false,
        };
        handle(&bus, told).await.unwrap();
        let running = Running::start(bus);
        assert_eq!(place.left_becomes(2).await, ["first", "new"], "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_handler_that_fails_schedules_and_cancels_nothing() {
    for place in Place::all().await {
        let bus = place.bus();
        let outside = bus.defer(SOON, note("outside")).await.unwrap();
        let told = Act {
            defer: vec![(0, Uuid::now_v7(), "rolled back".into())],
            cancel: vec![outside],
            ..Act::default()
        };
        handle(&bus, Act { fails: true, ..told }).await.unwrap_err();
        let running = Running::start(bus);
        assert_eq!(place.left_becomes(1).await, ["outside"], "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_transaction_of_the_caller_decides() {
    for place in Place::databases().await {
        place.schedule_in_transaction([(past(0), note("rolled back"))], false).await;
        place.schedule_in_transaction([(past(1), note("committed"))], true).await;
        let running = Running::start(place.bus());
        assert_eq!(place.left_becomes(1).await, ["committed"], "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn an_id_that_is_scheduled_again_is_replaced() {
    for place in Place::all().await {
        let (bus, id) = (place.bus(), Uuid::now_v7());
        bus.defer(Duration::from_secs(3_600), note("an hour").id(id)).await.unwrap();
        let running = Running::start(bus.clone());
        bus.defer(SOON, note("soon").id(id)).await.unwrap();
        assert_eq!(place.left_becomes(1).await, ["soon"], "{}", place.what);
        assert!(!bus.cancel(id).await.unwrap(), "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn the_far_future_can_be_scheduled_and_waits() {
    for place in Place::all().await {
        let bus = place.bus();
        let running = Running::start(bus.clone());
        let century = Duration::from_secs(36_525 * 86_400);
        let last = DateTime::from_timestamp(253_402_300_799, 0).unwrap();
        let far = [bus.defer(century, note("a century")).await, bus.schedule(last, note("the end")).await];
        let too_far = bus.defer(century + Duration::from_nanos(1), note("too far")).await.unwrap_err();
        assert!(too_far.to_string().contains("at most 36525 days ahead"), "{too_far}");
        let too_far = bus.schedule(last + TimeDelta::seconds(1), note("too far")).await.unwrap_err();
        assert!(too_far.to_string().contains("before the year 10000"), "{too_far}");
        bus.defer(Duration::ZERO, note("now")).await.unwrap();
        assert_eq!(place.left_becomes(1).await, ["now"], "{}", place.what);
        for id in far {
            assert!(bus.cancel(id.unwrap()).await.unwrap(), "{}", place.what);
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn the_past_is_due_at_once() {
    for place in Place::all().await {
        let bus = place.bus();
        let running = Running::start(bus.clone());
        bus.schedule(DateTime::<Utc>::MIN_UTC, note("the beginning")).await.unwrap();
        place.left_becomes(1).await;
        bus.schedule(SystemTime::UNIX_EPOCH, note("1970")).await.unwrap();
        assert_eq!(place.left_becomes(2).await, ["the beginning", "1970"], "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_restart_keeps_what_a_database_keeps() {
    for place in Place::all().await {
        let bus = place.bus();
        let running = Running::start(bus.clone());
        bus.defer(SOON, note("before the restart")).await.unwrap();
        running.stop().await;
        drop(bus);
        let pool = if place.is_durable() { Some(place.another_pool().await) } else { None };
        let bus = place.bus_on(pool.as_ref());
        bus.defer(SOON * 2, note("after it")).await.unwrap();
        let running = Running::start(bus);
        let expected: &[&str] =
            if place.is_durable() { &["before the restart", "after it"] } else { &["after it"] };
        assert_eq!(place.left_becomes(expected.len()).await, expected, "{}", place.what);
        running.stop().await;
    }
}

/// More than two batches of them, due before the bus starts.
#[tokio::test]
async fn a_backlog_leaves_batch_by_batch_in_order() {
    const ROWS: usize = 1_300;
    for place in Place::databases().await {
        let rows = (0..ROWS).map(|at| {
            // Neither in the order of their due times, nor of their ids.
            let at = at * 7 % ROWS;
            (past(i64::try_from(at).unwrap()), note(at.to_string()))
        });
        place.schedule_in_transaction(rows, true).await;
        let running = Running::start(place.bus());
        let expected: Vec<String> = (0..ROWS).map(|at| at.to_string()).collect();
        assert_eq!(place.left_becomes(ROWS).await, expected, "{}", place.what);
        assert_eq!(place.scheduled().await, 0, "{}", place.what);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_instances_move_two_thousand_rows_once_and_in_order() {
    const ROWS: usize = 2_000;
    for place in Place::databases().await {
        let mut pools = Vec::new();
        for _ in 0..4 {
            pools.push(place.another_pool().await);
        }
        let running: Vec<Running> =
            (0..16).map(|at| Running::start(place.bus_on(Some(&pools[at % pools.len()])))).collect();
        // Half of them are due when they are committed, the others become due while the sixteen look.
        let begin = Utc::now() - TimeDelta::milliseconds(1_000);
        let rows = (0..ROWS).map(|at| {
            let at = at * 7 % ROWS;
            (begin + TimeDelta::milliseconds(i64::try_from(at).unwrap()), note(at.to_string()).key(at % 10))
        });
        place.schedule_in_transaction(rows, true).await;
        let left = place.left_becomes(ROWS).await;
        let expected: Vec<String> = (0..ROWS).map(|at| at.to_string()).collect();
        assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), ROWS, "{}: some left twice", place.what);
        assert_eq!(left, expected, "{}", place.what);
        assert_eq!(place.scheduled().await, 0, "{}", place.what);
        for running in running {
            running.stop().await;
        }
    }
}

/// The answer to the statement that commits the move is lost, or the statement never arrives: once each.
#[tokio::test]
async fn a_move_whose_answer_is_lost_happens_once() {
    for (kind, needle) in [(Kind::Postgres, "barid-schedule"), (Kind::MariaDb, "COMMIT;DO RELEASE_LOCK")] {
        for arrives in [true, false] {
            let place = Place::on(kind).await;
            let (proxy, url) = Proxy::in_front_of(place.url()).await;
            let pool = barid::store::AnyPool::connect(&url, 4).await.unwrap();
            place.schedule_in_transaction((0..3).map(|at| (past(at), note(at.to_string()))), true).await;
            if arrives {
                proxy.cut_after_request(needle.as_bytes());
            } else {
                proxy.cut_before_request(needle.as_bytes());
            }
            let running = Running::start(place.bus_on(Some(&pool)));
            place.left_becomes(3).await;
            place.schedule_in_transaction([(past(9), note("last"))], true).await;
            assert_eq!(place.left_becomes(4).await, ["0", "1", "2", "last"], "{kind:?}, arrives: {arrives}");
            assert_eq!(proxy.fired().len(), 1, "{kind:?}: the fault struck");
            running.stop().await;
        }
    }
}

/// Somebody's open transaction cancels the first row: the others do not wait for it.
#[tokio::test]
async fn an_open_transaction_holds_up_its_own_row_only() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let place = Place::on(kind).await;
        let first = Uuid::now_v7();
        place.schedule_in_transaction([(past(0), note("0").id(first))], true).await;
        place.schedule_in_transaction((1..3).map(|at| (past(at), note(at.to_string()))), true).await;
        macro_rules! on {
            ($pool:expr, $db:ty) => {{
                let mut connection = $pool.acquire().await.unwrap();
                let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
                assert!(Schedule::new("test").cancel::<$db>(&mut tx, first).await.unwrap());
                let running = Running::start(place.bus());
                assert_eq!(place.left_becomes(2).await, ["1", "2"], "{kind:?}");
                tx.rollback().await.unwrap();
                assert_eq!(place.left_becomes(3).await, ["1", "2", "0"], "{kind:?}");
                running.stop().await;
            }};
        }
        match place.another_pool().await {
            barid::store::AnyPool::Postgres(pool) => on!(pool, sqlx::Postgres),
            barid::store::AnyPool::MySql(pool) => on!(pool, sqlx::MySql),
            _ => unreachable!("one of the two"),
        }
    }
}

/// A failure of the database is survived: the table is away for a while.
#[tokio::test]
async fn a_schedule_that_cannot_be_read_for_a_while_goes_on() {
    for place in Place::databases().await {
        let bus = place.bus();
        bus.defer(Duration::ZERO, note("first")).await.unwrap();
        let running = Running::start(bus.clone());
        place.left_becomes(1).await;
        bus.defer(SOON, note("second")).await.unwrap();
        run(place.pool(), "ALTER TABLE schedule RENAME TO elsewhere").await;
        let refused = bus.defer(Duration::ZERO, note("refused")).await.unwrap_err().to_string();
        assert!(refused.contains("scheduling the message"), "{refused}");
        place.execute("ALTER TABLE elsewhere RENAME TO schedule").await;
        assert_eq!(place.left_becomes(2).await, ["first", "second"], "{}", place.what);
        running.stop().await;
    }
}
