//! Those that write rows: branches, units of work, last resources.

use std::sync::Arc;

use async_trait::async_trait;
use barid::{
    Error, Outbox, Outgoing, Result, SqlUnitOfWork, UnitConnection,
    distributed::{Resource, SqlBranch, SqlLast, SqlLastResource, SqlResource, UnitOfWorkParticipant},
    store::{AnyPool, Backend, distributed::branch::TwoPhase},
    testing::participants::{Subject, Suite},
};
use barid_tests::{TestDatabase, transfer::number};
use bytes::Bytes;
use futures::future::BoxFuture;
use sqlx::{AssertSqlSafe, Executor, MySql, Pool, Postgres, Sqlite, raw_sql};

use super::{Database, LAST, PREPARED, ending, id, kept};

async fn rows(pool: &AnyPool, key: u64) -> Result<u64> {
    Ok(u64::try_from(number(pool, &format!("SELECT count(*) FROM t WHERE id={key}")).await)?)
}

/// One insert, on each kind of connection.
trait Inserts: Backend {
    fn insert(db: &mut UnitConnection<Self>, values: String) -> BoxFuture<'_, Result<()>>;
}

macro_rules! inserts {
    ($($database:ty),+) => {$(
        impl Inserts for $database {
            fn insert(db: &mut UnitConnection<Self>, values: String) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move {
                    db.execute(raw_sql(AssertSqlSafe(format!("INSERT INTO t(id)VALUES{values}")))).await?;
                    Ok(())
                })
            }
        }
    )+};
}
inserts!(Postgres, MySql, Sqlite);

/// Violates the primary key.
const TWICE: &str = "(0),(0)";

/// Branches that are prepared by the database.
struct Branches<DB: TwoPhase>(Database<DB>, Arc<SqlResource<DB>>);

#[async_trait]
impl<DB: TwoPhase + Inserts> Subject for Branches<DB> {
    type Participant = SqlBranch<DB>;

    fn participant(&self) -> SqlBranch<DB> {
        self.1.branch()
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, branch: &SqlBranch<DB>, key: u64) -> Result<()> {
        DB::insert(&mut *branch.connection().await?, format!("({key})")).await
    }

    async fn fail(&self, branch: &SqlBranch<DB>) -> Result<()> {
        DB::insert(&mut *branch.connection().await?, TWICE.to_owned()).await
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        rows(&self.0.any, key).await
    }
}

async fn branches<DB: TwoPhase + Inserts>(what: &str, database: TestDatabase<DB>)
where
    AnyPool: From<Pool<DB>>,
{
    let database = Database::of(database).await;
    let (resource, end) = (SqlResource::new(id(), database.pool.clone()), ending(&database.any));
    kept(what, Suite::new(Branches(database, resource)).end_sessions(end), PREPARED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_postgres() {
    branches::<Postgres>("PREPARE TRANSACTION", TestDatabase::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_mariadb() {
    branches::<MySql>("XA", TestDatabase::mariadb().await).await;
}

/// Units of work: rows, and an event that leaves with them.
struct Units<DB: TwoPhase>(Database<DB>, Arc<SqlResource<DB>>);

#[async_trait]
impl<DB: TwoPhase + Inserts> Subject for Units<DB> {
    type Participant = UnitOfWorkParticipant<DB>;

    fn participant(&self) -> UnitOfWorkParticipant<DB> {
        UnitOfWorkParticipant::new(&self.1).outbox(Outbox::new("contract"))
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, unit: &UnitOfWorkParticipant<DB>, key: u64) -> Result<()> {
        unit.work(async |db| DB::insert(db, format!("({key})")).await).await?;
        unit.publish(Outgoing::raw("things.done", Bytes::from_static(b"{}")).key(key)).await
    }

    /// Not a statement: the work itself says that it failed.
    async fn fail(&self, unit: &UnitOfWorkParticipant<DB>) -> Result<()> {
        unit.work(async |_| Err(Error::new("on purpose"))).await
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        let rows = rows(&self.0.any, key).await?;
        let sent = format!("SELECT count(*) FROM outbox WHERE aggregateid='{key}'");
        let sent = u64::try_from(number(&self.0.any, &sent).await)?;
        if rows == sent { Ok(rows) } else { Err(Error::new(format!("{rows} rows, {sent} messages"))) }
    }
}

async fn units<DB: TwoPhase + Inserts>(what: &str, database: TestDatabase<DB>)
where
    AnyPool: From<Pool<DB>>,
{
    let database = Database::of(database).await;
    let units = SqlUnitOfWork::new(database.pool.clone());
    let (resource, end) = (SqlResource::of(id(), &units), ending(&database.any));
    kept(what, Suite::new(Units(database, resource)).end_sessions(end), PREPARED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_of_work_of_postgres() {
    units::<Postgres>("a unit of work on PostgreSQL", TestDatabase::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_of_work_of_mariadb() {
    units::<MySql>("a unit of work on MariaDB", TestDatabase::mariadb().await).await;
}

/// Last resources.
struct Lasts<DB: Backend>(Database<DB>, Arc<SqlLastResource<DB>>);

#[async_trait]
impl<DB: Inserts> Subject for Lasts<DB> {
    type Participant = SqlLast<DB>;

    fn participant(&self) -> SqlLast<DB> {
        self.1.branch()
    }

    fn resource(&self) -> Arc<dyn Resource> {
        self.1.clone()
    }

    async fn work(&self, last: &SqlLast<DB>, key: u64) -> Result<()> {
        last.run(async |db| DB::insert(db, format!("({key})")).await).await
    }

    async fn fail(&self, last: &SqlLast<DB>) -> Result<()> {
        last.run(async |db| DB::insert(db, TWICE.to_owned()).await).await
    }

    async fn happened(&self, key: u64) -> Result<u64> {
        rows(&self.0.any, key).await
    }
}

async fn lasts<DB: Inserts>(what: &str, database: TestDatabase<DB>)
where
    AnyPool: From<Pool<DB>>,
{
    let database = Database::of(database).await;
    let resource = SqlLastResource::new(id(), database.pool.clone());
    kept(what, Suite::new(Lasts(database, resource)), LAST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_resources() {
    lasts::<Postgres>("a last resource on PostgreSQL", TestDatabase::postgres().await).await;
    lasts::<MySql>("a last resource on MariaDB", TestDatabase::mariadb().await).await;
    lasts::<Sqlite>("a last resource on SQLite", TestDatabase::sqlite().await).await;
}
