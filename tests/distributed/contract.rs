//! The contract of those who take part, over all of them: the public suite of `barid::testing`, on real servers.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{any::Any, time::Duration};

use barid::{
    Result,
    distributed::ResourceId,
    store::{AnyPool, Backend, schema},
    testing::participants::{Subject, Suite},
};
use barid_tests::{
    TestDatabase, eventually,
    transfer::{number, run},
};
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Executor, Pool, raw_sql};

#[path = "contract/broken.rs"]
mod broken;
#[path = "contract/events.rs"]
mod events;
#[path = "contract/rows.rs"]
mod rows;

/// Fewer at once than the servers under test have room for, which other tests use at the same time.
const AT_ONCE: usize = 8;

/// A database with Barid's tables and one of ours.
struct Database<DB: Backend> {
    pool: Pool<DB>,
    any: AnyPool,
    _kept: Box<dyn Any + Send + Sync>,
}

impl<DB: Backend> Database<DB>
where
    AnyPool: From<Pool<DB>>,
{
    async fn of(database: TestDatabase<DB>) -> Self {
        let any = AnyPool::from(database.pool.clone());
        schema::apply(&any).await.unwrap();
        run(&any, "CREATE TABLE t(id BIGINT PRIMARY KEY)").await.unwrap();
        Self { pool: database.pool.clone(), any, _kept: Box::new(database) }
    }
}

fn id() -> ResourceId {
    ResourceId::new("under_test-1.x").unwrap()
}

/// Runs the suite, and says what it found.
async fn kept(what: &str, suite: Suite<impl Subject>, cases: usize) {
    let report = suite.transactions(100, AT_ONCE).run().await;
    println!("{what}: {report}");
    let report = report.into_result().unwrap();
    assert_eq!(report.kept.len(), cases, "{what}: {report:?}");
}

/// Bounds every wait that ends with an event.
const LONG: Duration = Duration::from_secs(120);

/// How many cases there are for what can be prepared, and for a last resource.
const PREPARED: usize = 19;
const LAST: usize = 7;

/// Ends every session in the database but the one that asks.
fn ending(pool: &AnyPool) -> impl Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + use<> {
    let pool = pool.clone();
    move || {
        let pool = pool.clone();
        Box::pin(async move { Ok(end_sessions(&pool).await?) })
    }
}

async fn end_sessions(pool: &AnyPool) -> std::result::Result<(), sqlx::Error> {
    match pool {
        AnyPool::Postgres(_) => {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname=current_database() AND pid<>pg_backend_pid()";
            run(pool, end).await
        }
        AnyPool::MySql(on) => {
            let mut connection = on.acquire().await?;
            let others =
                "SELECT id FROM information_schema.processlist WHERE db=DATABASE() AND id<>CONNECTION_ID()";
            let others: Vec<i64> = sqlx::query_scalar(others).fetch_all(&mut *connection).await?;
            for other in &others {
                let kill = raw_sql(AssertSqlSafe(format!("KILL {other}")));
                match connection.execute(kill).await {
                    // It had ended by itself.
                    Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("HY000") => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
            // KILL returns before the session has ended. Branches wait for that by themselves; but what the server loses all the same
            // (see `lost_branch.rs`) would stay in the way of the other tests on this server.
            let killed: String = others.iter().map(|other| format!(",{other}")).collect();
            let left = format!("SELECT count(*) FROM information_schema.processlist WHERE id IN (0{killed})");
            eventually(LONG, "the killed sessions have ended", async || number(pool, &left).await == 0).await;
            Ok(())
        }
        _ => Ok(()),
    }
}
