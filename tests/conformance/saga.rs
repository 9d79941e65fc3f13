//! The contract of a place for sagas, on every one there is: memory and the three databases.
//!
//! What a store does is seen through a bus, the way handlers see it.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Context, Error, Headers, Memory, Message, Result, Saga, SqlUnitOfWork, State, headers,
    saga::{MemorySagas, Missing, by},
    store::{AnyPool, schema},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::eventually;
use databases::{Fresh, KINDS};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};
use tokio::sync::oneshot;
use uuid::Uuid;

#[allow(dead_code)] // other suites need more of it
mod databases;

/// What a message does to the thing of a key.
#[derive(Serialize, Deserialize)]
enum What {
    Add,
    Nothing,
    Touch,
    AddAndFail,
    /// Adds, and somebody else adds too before this is saved.
    AddTooLate,
    Complete,
    AlsoKnownAs(String),
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "things.do")]
struct Do {
    key: String,
    what: What,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "things.look")]
struct Look {
    key: Option<String>,
    also: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Thing {
    n: u32,
}

/// What the last look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Missing,
    Completed,
    Thing { revision: u64, n: u32 },
}

struct Shared {
    seen: Mutex<Option<Seen>>,
    pool: Option<AnyPool>,
    /// The bus itself, for a message that meets another one.
    bus: OnceLock<Bus>,
}

async fn act(message: Do, mut thing: Saga<Thing>, shared: State<Arc<Shared>>, cx: Context) -> Result<()> {
    match message.what {
        What::Add => thing.n += 1,
        What::Nothing => {}
        What::Touch => thing.touch(),
        What::AddAndFail => {
            thing.n += 1;
            return Err(Error::new("on purpose"));
        }
        What::AddTooLate => {
            thing.n += 1;
            somebody_else_adds(&message.key, &shared.0, &cx).await?;
        }
        What::Complete => thing.complete(),
        What::AlsoKnownAs(name) => thing.correlate("also", name)?,
    }
    Ok(())
}

/// On a database in this very transaction, because SQLite has one writer: what is in the way of the revision is the same.
async fn somebody_else_adds(key: &str, shared: &Shared, cx: &Context) -> Result<()> {
    const ADD: &str = "UPDATE saga SET revision = revision + 1";
    match &shared.pool {
        Some(AnyPool::Postgres(_)) => {
            sqlx::query(ADD).execute(&mut *cx.unit_of_work::<Postgres>().await?).await?;
        }
        Some(AnyPool::MySql(_)) => {
            sqlx::query(ADD).execute(&mut *cx.unit_of_work::<MySql>().await?).await?;
        }
        Some(_) => {
            sqlx::query(ADD).execute(&mut *cx.unit_of_work::<Sqlite>().await?).await?;
        }
        None => {
            let other = Do { key: key.to_owned(), what: What::Add };
            Box::pin(shared.bus.get().unwrap().handle(delivery(&other))).await?;
        }
    }
    Ok(())
}

async fn look(_: Look, thing: Saga<Thing>, shared: State<Arc<Shared>>) -> Result<()> {
    *shared.0.seen.lock().unwrap() = Some(Seen::Thing { revision: thing.revision(), n: thing.n });
    Ok(())
}

async fn missing(missing: Missing, cx: Context) -> Result<()> {
    let seen = if missing.completed.is_some() { Seen::Completed } else { Seen::Missing };
    *cx.state::<Arc<Shared>>().unwrap().seen.lock().unwrap() = Some(seen);
    Ok(())
}

/// A bus over a store, without second tries: what goes wrong is seen.
struct Subject {
    name: String,
    bus: Bus,
    shared: Arc<Shared>,
    builder: Box<dyn Fn() -> BusBuilder>,
    _database: Option<Fresh>,
}

impl Subject {
    fn new(
        name: String,
        pool: Option<AnyPool>,
        store: impl Fn(BusBuilder) -> BusBuilder + 'static,
        database: Option<Fresh>,
    ) -> Self {
        let shared = Arc::new(Shared { seen: Mutex::default(), pool, bus: OnceLock::new() });
        let state = Arc::clone(&shared);
        let builder = move || {
            let things = Saga::<Thing>::define("things")
                .starts_with(by("key", |message: &Do| message.key.clone()), act)
                .then(
                    by("key", |look: &Look| look.key.clone().unwrap_or("-".into()))
                        .or("also", |look: &Look| look.also.clone().unwrap_or("-".into())),
                    look,
                )
                .when_missing_call(missing);
            store(Bus::builder("things").transport(Memory::new()))
                .saga_conflict_retries_max(0)
                .state(Arc::clone(&state))
                .saga(things)
        };
        let bus = builder().build().unwrap();
        shared.bus.set(bus.clone()).unwrap();
        Self { name, bus, shared, builder: Box::new(builder), _database: database }
    }

    async fn all() -> Vec<Self> {
        let sagas = MemorySagas::new();
        let memory = move |bus: BusBuilder| bus.memory_sagas(sagas.clone());
        let mut all = vec![Self::new("memory".to_owned(), None, memory, None)];
        for kind in KINDS {
            let database = Fresh::new(kind).await;
            let pool = database.pool().await;
            schema::apply(&pool).await.unwrap();
            let on = pool.clone();
            let sql = move |bus: BusBuilder| match on.clone() {
                AnyPool::Postgres(pool) => {
                    bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
                }
                AnyPool::MySql(pool) => {
                    bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
                }
                AnyPool::Sqlite(pool) => {
                    bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
                }
                _ => unreachable!("there are three databases"),
            };
            all.push(Self::new(format!("{kind:?}"), Some(pool), sql, Some(database)));
        }
        all
    }

    async fn act(&self, key: &str, what: What) -> Result<()> {
        self.bus.handle(delivery(&Do { key: key.to_owned(), what })).await
    }

    async fn look(&self, key: &str) -> Seen {
        self.look_by(Look { key: Some(key.to_owned()), also: None }).await
    }

    async fn look_also(&self, also: &str) -> Seen {
        self.look_by(Look { key: None, also: Some(also.to_owned()) }).await
    }

    async fn look_by(&self, look: Look) -> Seen {
        self.bus.handle(delivery(&look)).await.unwrap();
        self.shared.seen.lock().unwrap().take().unwrap()
    }
}

struct Nobody;

#[async_trait::async_trait]
impl Settlement for Nobody {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}

fn delivery<M: Message>(message: &M) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, M::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(message).unwrap().into(),
        source: "things".to_owned(),
        repeat: Repeat::First,
        settlement: Box::new(Nobody),
    }
}

fn thing(revision: u64, n: u32) -> Seen {
    Seen::Thing { revision, n }
}

#[tokio::test]
async fn a_saga_is_started_found_changed_and_left_alone() {
    for store in &Subject::all().await {
        let name = &store.name;
        assert_eq!(store.look("a").await, Seen::Missing, "{name}");
        store.act("a", What::Add).await.unwrap();
        assert_eq!(store.look("a").await, thing(0, 1), "{name}: inserted");
        store.act("a", What::Add).await.unwrap();
        assert_eq!(store.look("a").await, thing(1, 2), "{name}: updated");
        store.act("a", What::Nothing).await.unwrap();
        assert_eq!(store.look("a").await, thing(1, 2), "{name}: what has not changed is not written");
        store.act("a", What::Touch).await.unwrap();
        assert_eq!(store.look("a").await, thing(2, 2), "{name}: unless it is asked for");
        store.act("b", What::Nothing).await.unwrap();
        assert_eq!(store.look("b").await, thing(0, 0), "{name}: a start is always written");
        for other in ["A", "a ", " a"] {
            assert_eq!(store.look(other).await, Seen::Missing, "{name}: {other:?} is another value");
        }
    }
}

#[tokio::test]
async fn what_fails_leaves_nothing() {
    for store in &Subject::all().await {
        let name = &store.name;
        store.act("a", What::AddAndFail).await.unwrap_err();
        assert_eq!(store.look("a").await, Seen::Missing, "{name}: not even started");
        store.act("a", What::Add).await.unwrap();
        store.act("a", What::AddAndFail).await.unwrap_err();
        assert_eq!(store.look("a").await, thing(0, 1), "{name}");
    }
}

#[tokio::test]
async fn a_state_that_is_not_the_newest_is_not_saved() {
    for store in &Subject::all().await {
        let name = &store.name;
        store.act("a", What::Add).await.unwrap();
        let said = store.act("a", What::AddTooLate).await.unwrap_err().to_string();
        assert!(said.contains("saga \"things\" (key = a, ") && said.contains("revision 0"), "{name}: {said}");
        // In memory the other one was another message, and stays.
        let left = if store.shared.pool.is_none() { thing(1, 2) } else { thing(0, 1) };
        assert_eq!(store.look("a").await, left, "{name}");
    }
}

#[tokio::test]
async fn a_value_of_a_property_belongs_to_one_saga() {
    for store in &Subject::all().await {
        let name = &store.name;
        let known_as = |also: &str| What::AlsoKnownAs(also.to_owned());
        store.act("a", known_as("x")).await.unwrap();
        store.act("b", What::Add).await.unwrap();
        let said = store.act("b", known_as("x")).await.unwrap_err().to_string();
        assert!(said.contains("saga \"things\" (key = b, "), "{name}: {said}");
        assert_eq!(store.look("b").await, thing(0, 1), "{name}");
        assert_eq!(store.look_also("x").await, thing(0, 0), "{name}: it is the first one's");
        store.act("a", known_as("x")).await.unwrap();
        assert_eq!(store.look("a").await, thing(0, 0), "{name}: it has it already");
        store.act("a", known_as("y")).await.unwrap();
        assert_eq!(store.look_also("x").await, Seen::Missing, "{name}: replaced");
        assert_eq!(store.look_also("y").await, thing(1, 0), "{name}");
        store.act("b", known_as("x")).await.unwrap();
        assert_eq!(store.look_also("x").await, thing(1, 1), "{name}: free again");
        // A property is not another one.
        store.act("x", What::Nothing).await.unwrap();
        assert_eq!(store.look("x").await, thing(0, 0), "{name}");
    }
}

#[tokio::test]
async fn a_completed_saga_stays_completed_for_as_long_as_was_said() {
    for store in &Subject::all().await {
        let name = &store.name;
        store.act("a", What::AlsoKnownAs("x".to_owned())).await.unwrap();
        store.act("a", What::Complete).await.unwrap();
        assert_eq!(store.look("a").await, Seen::Completed, "{name}");
        store.act("a", What::Add).await.unwrap();
        assert_eq!(store.look("a").await, Seen::Completed, "{name}: a start does not revive it");
        assert_eq!(store.look_also("x").await, Seen::Completed, "{name}");
        store.act("b", What::Complete).await.unwrap();
        assert_eq!(
            store.look("b").await,
            Seen::Completed,
            "{name}: completed by the message that started it"
        );
        store.act("c", What::Add).await.unwrap();

        // Another bus on the same sagas removes the tombstones, and only those.
        let (stop, stopped) = oneshot::channel::<()>();
        let forgetful = (store.builder)().saga_retention(Duration::ZERO).build().unwrap();
        let running = tokio::spawn(async move { forgetful.run_until(async { drop(stopped.await) }).await });
        eventually(Duration::from_secs(20), "the tombstones are gone", async || {
            store.look("a").await == Seen::Missing && store.look("b").await == Seen::Missing
        })
        .await;
        assert_eq!(store.look("c").await, thing(0, 1), "{name}");
        store.act("b", What::AlsoKnownAs("x".to_owned())).await.unwrap();
        assert_eq!(store.look_also("x").await, thing(0, 0), "{name}: its values are free again");
        drop(stop);
        running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn sagas_survive_the_instance_that_saved_them() {
    for mut store in Subject::all().await {
        store.act("a", What::Add).await.unwrap();
        store.bus = (store.builder)().build().unwrap();
        assert_eq!(store.look("a").await, thing(0, 1), "{}", store.name);
    }
}
