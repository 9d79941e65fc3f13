//! The contract of what counts attempts, on the one in memory and on SQLite. The conformance suite has all of them.

use std::sync::{Arc, Mutex};

use barid::{
    Failed, Memory, Result, RetryPolicy, SqlUnitOfWork, State, UnitOfWork, headers,
    retry::{AttemptStore, MemoryAttempts},
    store::backend::IdempotencyKey,
    transport::{Delivery, Repeat},
};
use uuid::Uuid;

use crate::stage::{BUS, DEAD, Journal, Place, bus, database, delivery};

fn key() -> IdempotencyKey {
    IdempotencyKey { message_id: Uuid::now_v7(), scope: BUS.to_owned() }
}

async fn contract(store: Arc<dyn AttemptStore>) {
    let (one, other) = (key(), key());
    assert!(store.errors(&one).await.unwrap().is_empty(), "nothing is known of an unknown id");
    for (count, error) in [(1, "first"), (2, "second"), (3, "third")] {
        assert_eq!(store.failed(&one, false, error).await.unwrap(), count);
    }
    assert_eq!(store.errors(&one).await.unwrap(), ["first", "second", "third"]);
    assert_eq!(store.failed(&other, false, "its own").await.unwrap(), 1, "each id has its own count");
    store.forget(&one).await.unwrap();
    assert!(store.errors(&one).await.unwrap().is_empty());
    assert_eq!(store.failed(&one, false, "anew").await.unwrap(), 1);
    assert_eq!(store.errors(&other).await.unwrap(), ["its own"], "another id is left alone");
    // Ours counts before a handler runs, so that one that kills its process is counted too.
    assert_eq!(store.started(&other).await.unwrap(), 2);
    assert_eq!(store.failed(&other, true, "counted already").await.unwrap(), 2);
    store.take_back(&other).await.unwrap();
    assert_eq!(store.started(&other).await.unwrap(), 2, "what did not happen is no attempt");
}

#[tokio::test]
async fn attempts_in_memory() {
    contract(Arc::new(MemoryAttempts::default())).await;
}

#[tokio::test]
async fn attempts_in_sqlite() {
    let database = database().await;
    let unit = SqlUnitOfWork::new(database.pool.clone());
    contract(unit.capabilities().attempts.unwrap()).await;
    drop(unit);
    database.drop_now().await;
}

/// The model counts in the memory of each process. Ours goes on where another bus stopped.
#[tokio::test]
async fn the_limit_is_inclusive_and_outlives_a_bus() {
    async fn fails(_: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("attempt");
        Err(barid::Error::new(format!("failure {}", journal.0.read().len())))
    }
    let (database, network, journal) = (database().await, Memory::new(), Journal::default());
    let message = Uuid::now_v7();
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    for dead in [0, 0, 1] {
        let unit = SqlUnitOfWork::new(database.pool.clone());
        let builder = bus(&network).await.retry(policy.clone()).unit_of_work(unit).handler(fails);
        let bus = builder.state(journal.clone()).build().unwrap();
        bus.handle(Delivery { repeat: Repeat::Possible, ..delivery(message, 1) }).await.unwrap_err();
        assert_eq!(network.len(DEAD), dead);
    }
    let (letter, _) = network.peek(DEAD).swap_remove(0);
    assert_eq!(letter.get(headers::DEAD_ATTEMPTS), Some("3"));
    assert!(letter.get(headers::DEAD_CAUSE).unwrap().contains("failure 3"));
    database.drop_now().await;
}

/// The model joins the errors of all attempts in the dead letter. Ours has the chain of the last one there, and hands all of
/// them to whoever wants to handle a message that failed.
#[tokio::test]
async fn the_errors_of_all_attempts_are_told_in_their_order() {
    async fn fails(_: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("attempt");
        Err(barid::Error::new(format!("failure {}", journal.0.read().len())))
    }
    async fn gives_up(failed: Failed<Place>, told: State<Arc<Mutex<Vec<String>>>>) -> Result<()> {
        told.0.lock().unwrap().extend(failed.errors.iter().cloned());
        Err(barid::Error::permanent("given up"))
    }
    let (network, journal) = (Memory::new(), Journal::default());
    let builder = bus(&network).await.handler(fails).handler(gives_up).state(journal);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let bus = builder.state(Arc::clone(&told)).build().unwrap();
    let message = Uuid::now_v7();
    for _ in 0..3 {
        bus.handle(Delivery { repeat: Repeat::Possible, ..delivery(message, 1) }).await.unwrap_err();
    }
    assert_eq!(*told.lock().unwrap(), ["failure 1", "failure 2", "failure 3"]);
    let (letter, _) = network.peek(DEAD).swap_remove(0);
    assert!(letter.get(headers::DEAD_CAUSE).unwrap().contains("given up"));
}
