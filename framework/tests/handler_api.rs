//! What handlers may ask for and what they may not do: found by the compiler, by `build()`, or at once.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barid::{
    Bus, BusBuilder, Context, Headers, Memory, Message, Next, Position, Result, SqlUnitOfWork, State, Step,
    UnitGuard, headers,
    pipeline::IncomingContext,
    store::{AnyPool, schema},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool};
use uuid::Uuid;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    id: i64,
}

/// The transport is not interesting here, but what it is told is.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("nack");
        Ok(())
    }
}

fn delivery(told: &Told) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&PlaceOrder { id: 1 }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(told.clone()),
    }
}

async fn pool(folder: &tempfile::TempDir) -> SqlitePool {
    let url = format!("sqlite://{}/orders.db", folder.path().display());
    let pool = AnyPool::connect(&url, 4).await.unwrap();
    schema::apply(&pool).await.unwrap();
    #[allow(irrefutable_let_patterns)] // other databases are features
    let AnyPool::Sqlite(pool) = pool else { panic!("not SQLite") };
    sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)").execute(&pool).await.unwrap();
    pool
}

fn orders(pool: &SqlitePool) -> BusBuilder {
    Bus::builder("orders").transport(Memory::new()).unit_of_work(SqlUnitOfWork::new(pool.clone()))
}

async fn insert(id: i64, db: &mut UnitGuard<Sqlite>) -> Result<()> {
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(id).execute(&mut **db).await?;
    Ok(())
}

async fn count(pool: &SqlitePool, of: &'static str) -> i64 {
    sqlx::query_scalar(of).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_second_guard_is_an_error_at_once() {
    async fn twice(cmd: PlaceOrder, cx: Context) -> Result<()> {
        let mut first = cx.unit_of_work::<Sqlite>().await?;
        insert(cmd.id, &mut first).await?;
        let asked = Instant::now();
        let said = cx.unit_of_work::<Sqlite>().await.unwrap_err().to_string();
        assert!(asked.elapsed() < Duration::from_millis(500), "it waited {:?}", asked.elapsed());
        assert!(said.contains("alive already") && said.contains("drop it"), "{said}");
        drop(first);
        // Once the first is gone there is another, in the same transaction.
        insert(cmd.id + 1, &mut cx.unit_of_work::<Sqlite>().await?).await
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let bus = orders(&pool).handler(twice).build().unwrap();
    bus.handle(delivery(&Told::default())).await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM orders").await, 2);
}

#[tokio::test]
async fn a_guard_that_outlives_its_handler_fails_the_message_after_a_bound() {
    type Kept = Mutex<Option<UnitGuard<Sqlite>>>;
    async fn keep(cmd: PlaceOrder, cx: Context, State(kept): State<Kept>) -> Result<()> {
        let mut db = cx.unit_of_work::<Sqlite>().await?;
        insert(cmd.id, &mut db).await?;
        *kept.lock().unwrap() = Some(db);
        // The message has failed by then; counting the attempt must not wait for the guard's unit for ever.
        let at_last = Arc::clone(&kept);
        cx.transaction().on_rollback(async move || {
            drop(at_last.lock().unwrap().take());
            Ok(())
        })?;
        Ok(())
    }
    for commit_with_transaction in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(&folder).await;
        let unit = SqlUnitOfWork::new(pool.clone()).commit_with_transaction(commit_with_transaction);
        let bus = orders(&pool).unit_of_work(unit).state(Kept::default()).handler(keep).build().unwrap();
        let told = Told::default();
        let handled = tokio::time::timeout(Duration::from_secs(20), bus.handle(delivery(&told))).await;
        let said = handled.expect("it fails within a bound").unwrap_err().to_string();
        assert!(said.contains("outlives its handler"), "{said}");
        assert_eq!(*told.0.lock().unwrap(), ["nack"]);
        assert_eq!(count(&pool, "SELECT count(*) FROM orders").await, 0);
        assert_eq!(count(&pool, "SELECT attempts FROM attempts").await, 1);
    }
}

#[tokio::test]
async fn what_the_bus_has_not_is_an_error_of_build_all_of_it_at_once() {
    struct Settings;
    struct Prices;
    struct Idle;
    #[async_trait::async_trait]
    impl Step<IncomingContext> for Idle {
        fn name(&self) -> &'static str {
            "idle"
        }
        async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
            next.run(cx).await
        }
    }
    async fn needs_two(_: PlaceOrder, _: State<Settings>, _: State<Prices>) -> Result<()> {
        Ok(())
    }
    async fn needs_a_unit(_: PlaceOrder, _: UnitGuard<Sqlite>) -> Result<()> {
        Ok(())
    }
    let broken = Bus::builder("orders")
        .handler(needs_two)
        .handler(needs_a_unit)
        .incoming_step(Position::After("dispach"), Idle)
        .queue("no blanks please");
    let error = broken.build().unwrap_err();
    let codes: Vec<_> = error.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["BRD014", "BRD014", "BRD014", "BRD016", "BRD015", "BRD010"]);
    let said = error.to_string();
    for part in [
        "State<handler_api::what_the_bus_has_not_is_an_error_of_build_all_of_it_at_once::{{closure}}::Settings>",
        "Prices",
        ".state(",
        "needs_two",
        "orders.place",
        "it asks for a unit of work on SQLite, the bus has none: call .unit_of_work(",
        "\"dispach\"",
        "trace, retry, subscriptions, deserialize, unit_of_work, idempotency, sagas, dispatch",
        "no blanks please",
        "no transport",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    // Nothing of it is found when it is there.
    async fn all_there(_: PlaceOrder, _: State<Settings>, _: UnitGuard<Sqlite>) -> Result<()> {
        Ok(())
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let bus = orders(&pool).state(Settings).handler(all_there);
    bus.incoming_step(Position::Before("dispatch"), Idle).build().unwrap();
}
