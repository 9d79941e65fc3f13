//! Money that moves from a home database to two others in one distributed transaction.
//!
//! Shared by the tests and by the program that they kill (`distributed-transfer`), so that both mean the same transaction. Every
//! transfer has an account of its own in each database, and takes [`AMOUNT`] from home for each of the others.

use std::{sync::Arc, time::Duration};

use barid::{
    Error,
    distributed::{
        CommitReport, Coordinator, DecisionLog as _, DistributedUnitOfWork, Resource, ResourceId, Settings,
        SqlBranch, SqlDecisionLog, SqlHome, SqlResource,
        core::{Decision, Protocol},
    },
    store::{AnyPool, Backend, distributed::branch::TwoPhase},
};
use sqlx::{AssertSqlSafe, Executor, MySql, Postgres, Row, Sqlite, raw_sql};

/// What moves to each of the other databases.
pub const AMOUNT: i64 = 10;

/// What every account has before.
pub const BALANCE: i64 = 1_000;

mod deaf;
mod events;
mod work;

use deaf::Deaf;
use events::Events;
pub use work::Transfer;
use work::{Branch, HomeUnit};

/// What the branches say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// All of them can commit.
    Yes,
    /// The same, with three phases.
    ThreePhase,
    /// A statement failed in the second one.
    No,
    /// The second one prepares, and nobody hears of it.
    Timeout,
}

impl Scenario {
    /// As it is written on the command line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Yes, Self::ThreePhase, Self::No, Self::Timeout]
            .into_iter()
            .find(|scenario| format!("{scenario:?}") == text)
    }
}

/// The log and its home unit of work.
enum Home {
    Postgres(Arc<SqlDecisionLog<Postgres>>),
    MariaDb(Arc<SqlDecisionLog<MySql>>),
    Sqlite(Arc<SqlDecisionLog<Sqlite>>),
}

/// A database that is prepared.
enum Side {
    Postgres(Arc<SqlResource<Postgres>>),
    MariaDb(Arc<SqlResource<MySql>>),
    /// An event store that stages.
    Events(Events),
}

/// One home and two others.
pub struct Bank {
    /// Coordinates.
    pub coordinator: Coordinator,
    /// The home database first.
    pub pools: Vec<AnyPool>,
    home: Home,
    sides: Vec<Side>,
}

impl Bank {
    /// Connects to databases that have Barid's schema. The first is home; those whose URLs begin with `events+` take part as event
    /// stores that stage: money arrives as events.
    ///
    /// # Errors
    /// When one of them cannot be reached.
    pub async fn open(urls: &[String], settings: Settings) -> Result<Self, Error> {
        let mut pools = Vec::new();
        for url in urls {
            pools.push(AnyPool::connect(events::plain(url), 10).await?);
        }
        let (home, log): (_, Arc<dyn barid::distributed::DecisionLog>) = match &pools[0] {
            AnyPool::Postgres(pool) => {
                let log = Arc::new(SqlDecisionLog::new(pool.clone()));
                (Home::Postgres(Arc::clone(&log)), log)
            }
            AnyPool::MySql(pool) => {
                let log = Arc::new(SqlDecisionLog::new(pool.clone()));
                (Home::MariaDb(Arc::clone(&log)), log)
            }
            AnyPool::Sqlite(pool) => {
                let log = Arc::new(SqlDecisionLog::new(pool.clone()));
                (Home::Sqlite(Arc::clone(&log)), log)
            }
            _ => return Err(Error::new("a database that the tests do not know")),
        };
        let (mut sides, mut resources) = (Vec::new(), Vec::<Arc<dyn Resource>>::new());
        for (at, pool) in pools.iter().enumerate().skip(1) {
            let id = ResourceId::new(format!("branch-{at}"))?;
            if events::plain(&urls[at]) != urls[at] {
                let (events, resource) = Events::of(id, pool)?;
                resources.push(resource);
                sides.push(Side::Events(events));
                continue;
            }
            match pool {
                AnyPool::Postgres(pool) => {
                    let resource = SqlResource::new(id, pool.clone());
                    resources.push(resource.clone());
                    sides.push(Side::Postgres(resource));
                }
                AnyPool::MySql(pool) => {
                    let resource = SqlResource::new(id, pool.clone());
                    resources.push(resource.clone());
                    sides.push(Side::MariaDb(resource));
                }
                _ => return Err(Error::new("SQLite cannot be prepared")),
            }
        }
        let coordinator = Coordinator::connect(log, resources, settings).await?;
        Ok(Self { coordinator, pools, home, sides })
    }

    /// Applies the schema, and opens `accounts` accounts in each database.
    ///
    /// # Errors
    /// When a database refuses.
    pub async fn create(urls: &[String], accounts: i64) -> Result<(), Error> {
        for url in urls {
            let pool = AnyPool::connect(events::plain(url), 2).await?;
            barid::store::schema::apply(&pool).await?;
            run(
                &pool,
                "CREATE TABLE account(id BIGINT PRIMARY KEY, balance BIGINT NOT NULL CHECK(balance >= 0))",
            )
            .await?;
            let rows: Vec<String> = (0..accounts).map(|id| format!("({id},{BALANCE})")).collect();
            run(&pool, &format!("INSERT INTO account(id,balance)VALUES{}", rows.join(","))).await?;
            pool.close().await;
        }
        Ok(())
    }

    /// A transfer that has not begun: the transaction, and what has to be done in it.
    ///
    /// # Errors
    /// Never for a bank that could be opened.
    pub fn transfer(
        &self,
        account: i64,
        scenario: Scenario,
    ) -> Result<(DistributedUnitOfWork, Transfer), Error> {
        let protocol =
            if scenario == Scenario::ThreePhase { Protocol::ThreePhase } else { Protocol::TwoPhase };
        let mut unit = DistributedUnitOfWork::new(&self.coordinator).protocol(protocol);
        let home = match &self.home {
            Home::Postgres(log) => HomeUnit::Postgres(home(&mut unit, log)?),
            Home::MariaDb(log) => HomeUnit::MariaDb(home(&mut unit, log)?),
            Home::Sqlite(log) => HomeUnit::Sqlite(home(&mut unit, log)?),
        };
        let mut branches = Vec::new();
        for (at, side) in self.sides.iter().enumerate() {
            let deaf = scenario == Scenario::Timeout && at == 1;
            branches.push(match side {
                Side::Postgres(resource) => Branch::Postgres(branch(&mut unit, resource, deaf)?),
                Side::MariaDb(resource) => Branch::MariaDb(branch(&mut unit, resource, deaf)?),
                Side::Events(events) => Branch::Events(events.register(&mut unit, deaf)?),
            });
        }
        Ok((unit, Transfer { account, scenario, home, branches }))
    }

    /// A whole transfer.
    ///
    /// # Errors
    /// How it ended, when it did not commit.
    pub async fn transferred(&self, account: i64, scenario: Scenario) -> Result<CommitReport, Error> {
        let (mut unit, transfer) = self.transfer(account, scenario)?;
        unit.begin().await?;
        transfer.work().await?;
        Ok(unit.commit().await?)
    }

    /// The balances of an account: home first.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn balances(&self, account: i64) -> Vec<i64> {
        let mut all = Vec::new();
        for (at, pool) in self.pools.iter().enumerate() {
            let staged = at > 0 && matches!(self.sides[at - 1], Side::Events(_));
            let balance = if staged {
                events::balance(account)
            } else {
                format!("SELECT balance FROM account WHERE id={account}")
            };
            all.push(number(pool, &balance).await);
        }
        all
    }

    /// Whether the transfer of an account happened; every database, the outbox and the idempotency record agree.
    ///
    /// # Panics
    /// When they do not agree: a mixed outcome.
    pub async fn happened(&self, account: i64) -> bool {
        let balances = self.balances(account).await;
        let others = i64::try_from(self.sides.len()).expect("a handful");
        let happened = balances[0] != BALANCE;
        let mut expected = vec![if happened { BALANCE - AMOUNT * others } else { BALANCE }];
        expected.extend(self.sides.iter().map(|_| if happened { BALANCE + AMOUNT } else { BALANCE }));
        assert_eq!(balances, expected, "a mixed outcome of account {account}");
        let home = &self.pools[0];
        let count = i64::from(happened);
        let outbox =
            number(home, &format!("SELECT count(*) FROM outbox WHERE aggregateid='{account}'")).await;
        let records =
            number(home, &format!("SELECT count(*) FROM idempotency WHERE scope='transfer-{account}'")).await;
        assert_eq!((outbox, records), (count, count), "outbox and record of account {account}");
        happened
    }

    /// How many branches of this log are prepared anywhere.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn prepared(&self) -> usize {
        let mut count = 0;
        for side in &self.sides {
            let found = match side {
                Side::Postgres(resource) => resource.prepared(self.coordinator.id()).await,
                Side::MariaDb(resource) => resource.prepared(self.coordinator.id()).await,
                Side::Events(events) => events.prepared(self.coordinator.id()).await,
            };
            count += found.expect("the databases list their branches").len();
        }
        count
    }

    /// Rolls back what a test leaves prepared: it would stay on servers that others use.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn leave_nothing_prepared(&self) {
        for side in &self.sides {
            let resource: Arc<dyn Resource> = match side {
                Side::Postgres(resource) => resource.clone(),
                Side::MariaDb(resource) => resource.clone(),
                Side::Events(_) => continue,
            };
            let prepared =
                resource.prepared(self.coordinator.id()).await.expect("the databases list their branches");
            for branch in prepared {
                resource.finish(&branch, Decision::Abort).await.expect("what is prepared can be rolled back");
            }
        }
    }

    /// Closes every connection.
    pub async fn close(self) {
        for pool in self.pools {
            pool.close().await;
        }
    }

    /// What the log knows.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn known(&self, gid: barid::distributed::Gid) -> Option<barid::distributed::log::Known> {
        let known = match &self.home {
            Home::Postgres(log) => log.load(gid).await,
            Home::MariaDb(log) => log.load(gid).await,
            Home::Sqlite(log) => log.load(gid).await,
        };
        known.expect("the log answers")
    }
}

fn home<DB: Backend>(
    unit: &mut DistributedUnitOfWork,
    log: &Arc<SqlDecisionLog<DB>>,
) -> Result<SqlHome<DB>, Error> {
    let home = SqlHome::new(log);
    unit.register_home(home.clone())?;
    Ok(home)
}

fn branch<DB: TwoPhase>(
    unit: &mut DistributedUnitOfWork,
    resource: &Arc<SqlResource<DB>>,
    deaf: bool,
) -> Result<SqlBranch<DB>, Error> {
    let branch = resource.branch();
    let name = resource.id().as_str().to_owned();
    if deaf {
        unit.register_participant(name, Deaf(branch.clone()))?;
    } else {
        unit.register_participant(name, branch.clone())?;
    }
    Ok(branch)
}

/// Bounds for tests: what is undecided is aborted soon, and taken again soon.
#[must_use]
pub fn impatient() -> Settings {
    Settings {
        deadline: Duration::from_millis(300),
        recover_every: Duration::from_millis(100),
        lease: Duration::from_secs(2),
        ..Settings::default()
    }
}

/// The same, and nothing that is over is kept.
#[must_use]
pub fn forgetful() -> Settings {
    Settings { kept_for: Duration::ZERO, ..impatient() }
}

/// Runs a text.
///
/// # Errors
/// When the database refuses.
pub async fn run(pool: &AnyPool, text: &str) -> Result<(), sqlx::Error> {
    let text = raw_sql(AssertSqlSafe(text.to_owned()));
    match pool {
        AnyPool::Postgres(pool) => pool.execute(text).await.map(drop),
        AnyPool::MySql(pool) => pool.execute(text).await.map(drop),
        AnyPool::Sqlite(pool) => pool.execute(text).await.map(drop),
        _ => Err(sqlx::Error::PoolClosed),
    }
}

/// A number that a query returns.
///
/// # Panics
/// When it does not.
pub async fn number(pool: &AnyPool, text: &str) -> i64 {
    let query = raw_sql(AssertSqlSafe(text.to_owned()));
    let number = match pool {
        AnyPool::Postgres(pool) => pool.fetch_one(query).await.and_then(|row| row.try_get(0)),
        AnyPool::MySql(pool) => pool.fetch_one(query).await.and_then(|row| row.try_get(0)),
        AnyPool::Sqlite(pool) => pool.fetch_one(query).await.and_then(|row| row.try_get(0)),
        _ => Err(sqlx::Error::PoolClosed),
    };
    number.unwrap_or_else(|error| panic!("{text}: {error}"))
}
