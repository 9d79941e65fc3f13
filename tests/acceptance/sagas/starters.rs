//! Sixteen messages that start the same saga at the same time, through two buses and a real queue.

use std::time::Duration;

use barid::{Context, Memory, Sender, SqlQueue};
use barid_tests::eventually;
use tokio::sync::oneshot;

use crate::*;

const STARTERS: u32 = 16;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counting.count")]
struct Count {
    counter: u64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counting.stop")]
struct Stop {
    counter: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    messages: u32,
}

/// Where every starter can run at the same time, none saves before all have read that there is no saga.
#[derive(Clone)]
struct Meeting(Option<Together>);

async fn count(_: Count, mut counter: Saga<Counter>, meeting: State<Meeting>, _: Context) -> Result<()> {
    if let Some(together) = &meeting.0.0 {
        together.meet(STARTERS).await;
    }
    counter.messages += 1;
    Ok(())
}

async fn stop(_: Stop, mut counter: Saga<Counter>) -> Result<()> {
    counter.complete();
    Ok(())
}

fn counters() -> barid::saga::Definition<Counter> {
    Saga::<Counter>::define("counters")
        .starts_with(by("counter", |count: &Count| count.counter), count)
        .then(by("counter", |stop: &Stop| stop.counter), stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_starters_make_one_saga_and_lose_no_update() {
    for world in worlds().await {
        let at_once = world.to_string() != "SQLite";
        let meeting = Meeting(at_once.then(|| Together::new(16)));
        let queue = SqlQueue::new(world.pool.clone());
        let bus = || {
            let bus = world.bus("counting").transport(queue.clone()).parallelism(16);
            bus.state(meeting.clone()).saga(counters()).build().unwrap()
        };
        let (one, two) = (bus(), bus());
        one.declare().await.unwrap();
        let sender = Sender::connect(&queue, "test").await.unwrap();
        let to = barid::Destination::queue("counting").unwrap();
        let send = async |message: barid::Outgoing| sender.send(message.to(to.clone())).await.unwrap();
        for _ in 0..STARTERS {
            send(Count { counter: 7 }.into()).await;
        }
        let (stop_one, stopped_one) = oneshot::channel::<()>();
        let (stop_two, stopped_two) = oneshot::channel::<()>();
        let running = [
            tokio::spawn(async move { one.run_until(async { drop(stopped_one.await) }).await }),
            tokio::spawn(async move { two.run_until(async { drop(stopped_two.await) }).await }),
        ];
        let drained = async || world.count("SELECT count(*) FROM queue_message").await == 0;
        eventually(Duration::from_secs(60), "every starter is handled", &drained).await;
        let dead = "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'";
        assert_eq!(world.count(dead).await, 0, "{world}");
        assert_eq!(world.sagas().await, (1, 0), "{world}: one saga");
        assert_eq!(world.data_of("counters").await.unwrap(), r#"{"messages":16}"#, "{world}: no update lost");
        assert_eq!(world.revision().await, i64::from(STARTERS) - 1, "{world}");
        // No zombie: starts that come after the end change nothing.
        send(Stop { counter: 7 }.into()).await;
        eventually(Duration::from_secs(60), "the stop is handled", &drained).await;
        for _ in 0..STARTERS {
            send(Count { counter: 7 }.into()).await;
        }
        eventually(Duration::from_secs(60), "late starters are handled", &drained).await;
        assert_eq!(world.sagas().await, (1, 1), "{world}: completed for good");
        assert_eq!(world.revision().await, i64::from(STARTERS), "{world}");
        drop((stop_one, stop_two));
        for bus in running {
            bus.await.unwrap().unwrap();
        }
        world.close().await;
    }
}

/// The same in memory, where the checks are ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_starters_in_memory() {
    let sagas = MemorySagas::new();
    let together = Together::new(16);
    let bus = Bus::builder("counting")
        .transport(Memory::new())
        .state(Meeting(Some(together)))
        .memory_sagas(sagas.clone())
        // In memory nobody waits for a lock: of sixteen, the last may meet fifteen others.
        .saga_conflict_retries_max(STARTERS)
        .saga(counters().then(by("counter", |seen: &Seen| seen.counter), seen))
        .build()
        .unwrap();
    let starters: Vec<_> = (0..STARTERS)
        .map(|_| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.handle(delivery(&Count { counter: 7 })).await })
        })
        .collect();
    for starter in starters {
        starter.await.unwrap().unwrap();
    }
    bus.handle(delivery(&Seen { counter: 7, messages: STARTERS })).await.unwrap();
    bus.handle(delivery(&Stop { counter: 7 })).await.unwrap();
    bus.handle(delivery(&Count { counter: 7 })).await.unwrap();
    // Ignored, because the saga is completed: a new one would have counted 1.
    bus.handle(delivery(&Seen { counter: 7, messages: 99 })).await.unwrap();
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counting.seen")]
struct Seen {
    counter: u64,
    messages: u32,
}

async fn seen(seen: Seen, counter: Saga<Counter>) -> Result<()> {
    if counter.messages == seen.messages {
        return Ok(());
    }
    Err(barid::Error::permanent(format!("it has counted {}", counter.messages)))
}
