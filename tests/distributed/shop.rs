//! A log, a PostgreSQL and a MariaDB that take part, and as many processes as a test wants: each with pools of its own.

#![allow(dead_code)] // each test program uses some of it

use std::sync::Arc;

use barid::{
    Error,
    distributed::{
        Coordinator, DistributedUnitOfWork, Principal, Resource, ResourceId, Settings, SqlBranch,
        SqlDecisionLog, SqlResource,
    },
    store::{AnyPool, schema},
};
use barid_tests::{
    TestDatabase,
    transfer::{number, run},
};
use sqlx::{Executor, MySql, MySqlPool, PgPool, Postgres, postgres::PgPoolOptions};

/// How long a process waits for a connection to a database that may be away.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The databases.
pub(crate) struct Shop {
    pub(crate) log: TestDatabase<Postgres>,
    pub(crate) users: TestDatabase<Postgres>,
    pub(crate) bills: TestDatabase<MySql>,
}

/// One process: nothing of it is shared with another one.
pub(crate) struct Process {
    pub(crate) coordinator: Coordinator,
    pub(crate) log: PgPool,
    users: Arc<SqlResource<Postgres>>,
    bills: Arc<SqlResource<MySql>>,
    pools: Vec<AnyPool>,
}

/// What happens in both databases.
pub(crate) struct Work {
    pub(crate) users: SqlBranch<Postgres>,
    pub(crate) bills: SqlBranch<MySql>,
}

impl Shop {
    pub(crate) async fn new() -> Self {
        let (log, users, bills) =
            (TestDatabase::postgres().await, TestDatabase::postgres().await, TestDatabase::mariadb().await);
        let shop = Self { log, users, bills };
        for pool in shop.pools() {
            schema::apply(&pool).await.unwrap();
            run(&pool, "CREATE TABLE entry(id BIGINT PRIMARY KEY)").await.unwrap();
        }
        shop
    }

    /// The log first.
    pub(crate) fn pools(&self) -> [AnyPool; 3] {
        [self.log.pool.clone().into(), self.users.pool.clone().into(), self.bills.pool.clone().into()]
    }

    pub(crate) async fn process(&self, settings: Settings) -> Process {
        self.process_at(&self.users.url, settings).await
    }

    /// One that reaches the users under another address.
    pub(crate) async fn process_at(&self, users: &str, settings: Settings) -> Process {
        let (log, users, bills) = (
            PgPool::connect(&self.log.url).await.unwrap(),
            PgPoolOptions::new().acquire_timeout(PATIENCE).connect(users).await.unwrap(),
            MySqlPool::connect(&self.bills.url).await.unwrap(),
        );
        let pools = vec![log.clone().into(), users.clone().into(), bills.clone().into()];
        let decisions = Arc::new(SqlDecisionLog::new(log.clone()));
        let users = SqlResource::new(ResourceId::new("users").unwrap(), users);
        let bills = SqlResource::new(ResourceId::new("bills").unwrap(), bills);
        let resources: [Arc<dyn Resource>; 2] = [users.clone(), bills.clone()];
        let coordinator = Coordinator::connect(decisions, resources, settings).await.unwrap();
        Process { coordinator, log, users, bills, pools }
    }

    /// In how many of the two databases an entry is: none, or both. One would be a mixed outcome.
    pub(crate) async fn happened(&self, id: i64) -> bool {
        let [_, users, bills] = self.pools();
        let count = format!("SELECT count(*) FROM entry WHERE id={id}");
        let (users, bills) = (number(&users, &count).await, number(&bills, &count).await);
        assert_eq!(users, bills, "a mixed outcome of {id}");
        users == 1
    }

    /// How many branches are prepared in both databases.
    pub(crate) async fn prepared(&self, by: &Process) -> usize {
        let id = by.coordinator.id();
        let users = by.users.prepared(id).await.unwrap().len();
        users + by.bills.prepared(id).await.unwrap().len()
    }

    /// A number from the log's database.
    pub(crate) async fn logged(&self, query: &str) -> i64 {
        number(&self.pools()[0], query).await
    }
}

impl Process {
    /// A transaction over both databases that has not begun, and its branches.
    pub(crate) fn unit(&self) -> (DistributedUnitOfWork, Work) {
        let mut unit = DistributedUnitOfWork::new(&self.coordinator);
        let work = Work { users: self.users.branch(), bills: self.bills.branch() };
        unit.register_participant("users", work.users.clone()).unwrap();
        unit.register_participant("bills", work.bills.clone()).unwrap();
        (unit, work)
    }

    /// Prepares an entry in both databases under a name.
    pub(crate) async fn begin(&self, who: &str, name: &str, id: i64) -> Result<(), Error> {
        let (unit, work) = self.unit();
        self.coordinator.named(Principal::new(who)).begin_distributed(name, unit, || work.insert(id)).await
    }

    /// Ends it as a process ends that is not killed.
    pub(crate) async fn close(self) {
        self.coordinator.drain().await;
        for pool in self.pools {
            pool.close().await;
        }
    }
}

impl Work {
    pub(crate) async fn insert(&self, id: i64) -> Result<(), Error> {
        let users = sqlx::query("INSERT INTO entry(id)VALUES($1)").bind(id);
        (&mut *self.users.connection().await?).execute(users).await?;
        let bills = sqlx::query("INSERT INTO entry(id)VALUES(?)").bind(id);
        (&mut *self.bills.connection().await?).execute(bills).await?;
        Ok(())
    }
}
