//! The tables of orchestrated sagas, and the markers of their steps: one suite on the three databases.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use barid::{
    Error, Message, Outbox, UnitConnection,
    distributed::{Principal, Which},
    orchestration::{
        Abilities, Call, Fault, NewSaga, OrchestrationError, SagaBook as _, SagaDefinition, SagaFilter,
        SagaId, SqlSagaLog, SqlWork, Started, Step, StepContext, StepDatabase, StepHandler as _,
        book::{ByHand, by_hand},
        core::{Direction, Outcome, StepStatus},
        log::{SagaCare as _, SagaLog as _, Save, SavedStep, Then},
    },
    store::{AnyPool, Backend, schema},
};
use barid_tests::sql;
use databases::{Fresh, Kind, run};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Executor, MySql, Pool, Postgres, Sqlite};

#[allow(dead_code)] // other suites need more of it
mod databases;
#[path = "orchestration/log.rs"]
mod log;
#[path = "orchestration/marker.rs"]
mod marker;

/// What one suite leaves, the next one must not find.
const TABLES: [&str; 5] = ["orchestration", "orchestration_marker", "dtx_audit", "outbox", "barid_test"];

async fn clean(pool: &AnyPool, suite: &str) {
    println!("{suite}");
    for table in TABLES {
        sql::execute(pool, &format!("DELETE FROM {table}")).await.unwrap();
    }
}

/// Every suite, one after the other: a database with the whole schema takes longer to make than all of them.
async fn all<DB: Backend>(on: Pool<DB>, any: &AnyPool)
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    macro_rules! each {
        ($($part:ident::$suite:ident),* $(,)?) => {
            $(
                clean(any, stringify!($suite)).await;
                $part::$suite::<DB>(on.clone(), any).await;
            )*
        };
    }
    each! {
        log::a_saga_is_started_once,
        log::one_at_a_time_has_it,
        log::what_is_saved_is_read_and_who_has_lost_its_turn_saves_nothing,
        log::only_what_is_due_and_defined_is_found,
        log::what_is_over_is_kept_and_then_forgotten,
        log::humans_retry_and_skip_and_it_is_written_down,
        log::a_saga_starts_with_the_unit_of_work_of_somebody,
        marker::an_action_is_done_once_and_says_the_same_again,
        marker::a_compensation_undoes_once_what_was_done,
        marker::what_was_undone_before_is_never_done,
        marker::what_fails_leaves_nothing,
    }
}

async fn on(kind: Kind) {
    let database = Fresh::new(kind).await;
    let pool = database.pool().await;
    schema::apply(&pool).await.unwrap();
    run(&pool, "CREATE TABLE barid_test(what VARCHAR(20) NOT NULL)").await;
    match pool.clone() {
        AnyPool::Postgres(on) => all::<Postgres>(on, &pool).await,
        AnyPool::MySql(on) => all::<MySql>(on, &pool).await,
        AnyPool::Sqlite(on) => all::<Sqlite>(on, &pool).await,
        _ => unreachable!("there are three databases"),
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    on(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb() {
    on(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    on(Kind::Sqlite).await;
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "things.done")]
struct Done {
    thing: i64,
}

#[derive(Serialize, Deserialize)]
struct Data {
    thing: i64,
}

const LEASE: Duration = Duration::from_secs(60);

/// A definition of two steps, and a saga of it.
fn saga(text: &str) -> (SagaDefinition<Data>, NewSaga) {
    let work = || barid::orchestration::ExternalWork::new(|_: StepContext<Data>| Box::pin(async { Ok(()) }));
    let definition =
        SagaDefinition::new("things", 2).step(Step::new("first", work())).step(Step::new("second", work()));
    let saga = definition.instance(SagaId::of(text), &Data { thing: 7 }).unwrap();
    (definition, saga)
}

fn known() -> [(String, u32); 1] {
    [("things".to_owned(), 2)]
}

/// A step whose effects are events of a stream of its own.
fn work<DB: Backend>(database: &StepDatabase<DB>) -> SqlWork<Data, DB>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    database
        .work(move |cx: StepContext<Data>, db| {
            Box::pin(async move {
                add::<DB>(db, "INSERT INTO barid_test(what)VALUES('done')").await?;
                cx.publish(
                    barid::Outgoing::new(Done { thing: cx.thing }).to(barid::Destination::topic("things")?),
                )?;
                Ok(json!({"attempt": cx.attempt()}))
            })
        })
        .undo(move |cx, db| {
            Box::pin(async move {
                let output: serde_json::Value = cx.output("first")?;
                if output["attempt"] == 0 {
                    return Err(Error::new("the output of another step"));
                }
                add::<DB>(db, "INSERT INTO barid_test(what)VALUES('undone')").await
            })
        })
}

async fn add<DB: Backend>(db: &mut UnitConnection<DB>, insert: &'static str) -> barid::Result<()>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    Ok(db.execute(sqlx::raw_sql(insert)).await.map(drop)?)
}

fn call(text: &str, attempt: u32) -> Call {
    Call {
        saga: SagaId::of(text),
        step: "first".into(),
        attempt,
        data: r#"{"thing":7}"#.into(),
        outputs: Arc::new(BTreeMap::new()),
    }
}

async fn count(pool: &AnyPool, query: &str) -> i64 {
    sql::number(pool, query).await.unwrap()
}
