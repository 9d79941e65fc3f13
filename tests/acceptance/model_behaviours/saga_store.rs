//! The contract of a place for sagas, on the one in memory and on SQLite, through a bus. The conformance suite has all of them.

use barid::{
    Bus, BusBuilder, Memory, Message, Result, Saga, SqlUnitOfWork, State,
    saga::{Definition, MemorySagas, Missing, by},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::stage::{Journal, bus, carrying, database};

/// Adds to the count of a name, which gets another name too.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "counts.add")]
struct Add {
    name: String,
    also: Option<String>,
    fails: bool,
}

/// Ends the count of a name.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "counts.end")]
struct End {
    name: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "counts.look")]
struct Look {
    name: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Count(u32);

async fn add(cmd: Add, mut count: Saga<Count>) -> Result<()> {
    count.0 += 1;
    if let Some(also) = cmd.also {
        count.correlate("also", also)?;
    }
    if cmd.fails { Err(barid::Error::new("no")) } else { Ok(()) }
}

async fn end(_: End, mut count: Saga<Count>) -> Result<()> {
    count.complete();
    Ok(())
}

async fn look(_: Look, count: Saga<Count>, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("revision {} count {}", count.revision(), count.0));
    Ok(())
}

async fn none(missing: Missing, cx: barid::Context) -> Result<()> {
    let what = if missing.completed.is_some() { "completed" } else { "none" };
    cx.state::<Journal>().unwrap().write(what);
    Ok(())
}

fn counts() -> Definition<Count> {
    Saga::<Count>::define("counts")
        .starts_with(by("name", |cmd: &Add| cmd.name.clone()), add)
        .then(by("name", |cmd: &End| cmd.name.clone()), end)
        .then(by("name", |cmd: &Look| cmd.name.clone()).or("also", |cmd: &Look| cmd.name.clone()), look)
        .when_missing_call(none)
}

/// A bus over a store; conflicts are not tried again.
struct View {
    bus: Bus,
    journal: Journal,
}

impl View {
    async fn new(store: &dyn Fn(BusBuilder) -> BusBuilder) -> Self {
        let journal = Journal::default();
        let builder = store(bus(&Memory::new()).await).saga_conflict_retries_max(0);
        Self { bus: builder.state(journal.clone()).saga(counts()).build().unwrap(), journal }
    }

    async fn add(&self, name: &str, also: Option<&str>, fails: bool) -> Result<()> {
        let add = Add { name: name.to_owned(), also: also.map(str::to_owned), fails };
        self.bus.handle(carrying(Uuid::now_v7(), &add)).await
    }

    async fn look(&self, name: &str) -> String {
        self.bus.handle(carrying(Uuid::now_v7(), &Look { name: name.to_owned() })).await.unwrap();
        self.journal.read().pop().unwrap()
    }
}

async fn contract(store: &dyn Fn(BusBuilder) -> BusBuilder) {
    let view = View::new(store).await;
    assert_eq!(view.look("a").await, "none");
    view.add("a", None, false).await.unwrap();
    assert_eq!(view.look("a").await, "revision 0 count 1", "inserted, and found by its property");
    view.add("a", Some("x"), false).await.unwrap();
    assert_eq!(view.look("a").await, "revision 1 count 2", "updated");
    assert_eq!(view.look("x").await, "revision 1 count 2", "found by its other property");
    view.add("a", None, true).await.unwrap_err();
    assert_eq!(view.look("a").await, "revision 1 count 2", "what failed left nothing");

    // A value belongs to one saga.
    let said = view.add("b", Some("x"), false).await.unwrap_err().to_string();
    assert!(said.contains("saga \"counts\" (name = b"), "{said}");
    assert_eq!((view.look("b").await, view.look("x").await), ("none".into(), "revision 1 count 2".into()));

    // What one bus has stored is there for the next one. The model empties its stores when an application starts.
    drop(view);
    let view = View::new(store).await;
    assert_eq!(view.look("a").await, "revision 1 count 2");
    view.bus.handle(carrying(Uuid::now_v7(), &End { name: "a".to_owned() })).await.unwrap();
    for name in ["a", "x"] {
        assert_eq!(view.look(name).await, "completed");
    }
}

#[tokio::test]
async fn sagas_in_memory() {
    let sagas = MemorySagas::new();
    contract(&move |bus| bus.memory_sagas(sagas.clone())).await;
}

#[tokio::test]
async fn sagas_in_sqlite() {
    let database = database().await;
    let pool = database.pool.clone();
    contract(&move |bus| bus.unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true)))
        .await;
    database.drop_now().await;
}

/// Two buses read revision 0; the second one to save is refused, and nothing of it stays.
#[tokio::test]
async fn a_revision_that_is_not_the_newest_is_refused() {
    async fn together(_: Look, mut count: Saga<Count>, met: State<Barrier>) -> Result<()> {
        met.0.wait().await;
        count.0 += 10;
        Ok(())
    }
    let sagas = MemorySagas::new();
    let store = |bus: BusBuilder| bus.memory_sagas(sagas.clone());
    let view = View::new(&store).await;
    view.add("a", None, false).await.unwrap();
    let saga = Saga::<Count>::define("counts")
        .starts_with(by("name", |cmd: &Add| cmd.name.clone()), add)
        .then(by("name", |cmd: &Look| cmd.name.clone()), together);
    let builder = store(bus(&Memory::new()).await).saga_conflict_retries_max(0).state(Barrier::new(2));
    let meeting = builder.saga(saga).build().unwrap();
    let one = || carrying(Uuid::now_v7(), &Look { name: "a".to_owned() });
    let (one, two) = tokio::join!(meeting.handle(one()), meeting.handle(one()));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let said = one.err().or(two.err()).unwrap().to_string();
    assert!(said.contains("saga \"counts\" (name = a") && said.contains("revision 0"), "{said}");
    assert_eq!(view.look("a").await, "revision 1 count 11");
}
