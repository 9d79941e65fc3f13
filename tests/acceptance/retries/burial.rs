//! On the SQL queue a message, its dead letter and its attempts change places in one transaction, wherever the connection breaks.

use std::time::Duration;

use barid::{Context, Error, Result, RetryPolicy, SqlQueue, store::AnyPool};
use barid_tests::Proxy;
use sqlx::Row;
use tokio::sync::watch;

use super::stage::{Make, Running, Stage, database, make};

/// Fails; the second attempt does so only after the first one was seen in the tables, however fast the attempts are.
async fn fails(cx: Context, mut seen: watch::Receiver<bool>) -> Result<()> {
    if cx.attempt() > 1 {
        seen.wait_for(|seen| *seen).await.expect("the test looks on");
    }
    Err(Error::new("asked to fail"))
}

/// Message, dead letter and row of attempts, in one look.
const LOOK: &str = "SELECT count(*) FILTER (WHERE queue = $1), count(*) FILTER (WHERE queue = $2), \
                    (SELECT count(*) FROM attempts) FROM queue_message";

/// Gives a message up while `break_it` breaks the connection of the queue, once. Every look at the tables meanwhile shows the
/// message or its dead letter, never both and never none.
async fn check(break_it: impl FnOnce(&Proxy)) {
    let database = database().await;
    let (proxy, through) = Proxy::in_front_of(&database.url).await;
    let pool = AnyPool::connect(&through, 4).await.unwrap();
    let stage = Stage::new(database, SqlQueue::new(pool).lease(Duration::from_secs(1))).await;
    stage.send(make("fail")).await;
    break_it(&proxy);
    let short = Duration::from_millis(200);
    let policy = RetryPolicy { attempts_max: 3, immediate_max: 3, pause: short, pause_max: short };
    let (failed, seen) = watch::channel(false);
    let bus = stage.bus().retry(policy).handler(move |_: Make, cx: Context| fails(cx, seen.clone()));
    let running = Running::start(bus.build().unwrap());
    let mut looks = 0;
    loop {
        let row =
            sqlx::query(LOOK).bind(&stage.queue).bind(stage.dead()).fetch_one(stage.pool()).await.unwrap();
        let look: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(look.0 + look.1, 1, "message and dead letter: {look:?}");
        assert!(look.1 == 0 || look.2 == 0, "a dead letter whose attempts are not forgotten");
        looks += 1;
        if look.2 > 0 {
            failed.send_replace(true);
        }
        if look.1 == 1 && proxy.armed() == 0 {
            break;
        }
        assert!(looks < 100_000, "no dead letter, or the connection was not broken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(*failed.borrow(), "it was not seen failing");
    let (letter, ..) = stage.letter().await;
    assert_eq!(letter.attempts, 3);
    running.stop().await;
    assert_eq!(proxy.fired().len(), 1);
    stage.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_between_the_dead_letter_and_the_attempts() {
    check(|proxy| proxy.cut_before_request(b"DELETE FROM attempts")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_between_the_message_and_the_dead_letter() {
    check(|proxy| proxy.cut_after_request(b"DELETE FROM queue_message WHERE seq")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_after_the_commit() {
    check(|proxy| proxy.cut_after_request(b"COMMIT")).await;
}
