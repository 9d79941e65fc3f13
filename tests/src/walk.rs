//! The bank walk: money that moves to and fro between the accounts of two databases, whoever is killed meanwhile.
//!
//! Shared by the test and by the program that it kills (`bank-walk`). Every transfer has a number, from which and a seed follows what
//! it does, and leaves a row of that number in both databases and one in the outbox of the first: so that what became of it can be
//! read off each of them.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use barid::{
    Destination, Error, Headers,
    distributed::{
        Coordinator, DistributedError, DistributedUnitOfWork, Resource, ResourceId, Settings, SqlBranch,
        SqlDecisionLog, SqlHome, SqlResource, core::Protocol,
    },
    store::AnyPool,
    transport::OutgoingRow,
};
use sqlx::{AssertSqlSafe, Executor, MySql, Postgres, raw_sql};
use uuid::Uuid;

use crate::{dice::Dice, sql};

/// In each of the two databases.
pub const ACCOUNTS: i64 = 40;

/// What each account has at first.
pub const BALANCE: i64 = 1_000;

/// More than all accounts together ever have.
const TOO_MUCH: i64 = 1_000_000;

/// How a transfer ended, as far as the process knows that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is in both databases.
    Committed,
    /// It is in neither.
    Aborted,
    /// Recovery finds out.
    InDoubt,
    /// One of the databases ended it in its own way.
    Mixed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for End {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Committed, Self::Aborted, Self::InDoubt, Self::Mixed];
        all.into_iter().find(|end| end.to_string() == text).ok_or(())
    }
}

/// The two databases, and who coordinates. The decision log is in the first, which is PostgreSQL.
pub struct Books {
    /// Coordinates.
    pub coordinator: Coordinator,
    /// The first database, and the second.
    pub pools: [AnyPool; 2],
    log: Arc<SqlDecisionLog<Postgres>>,
    first: Arc<SqlResource<Postgres>>,
    second: Second,
}

enum Second {
    Postgres(Arc<SqlResource<Postgres>>),
    MariaDb(Arc<SqlResource<MySql>>),
}

/// Where one side of a transfer is written.
enum Desk {
    Home(SqlHome<Postgres>),
    Postgres(SqlBranch<Postgres>),
    MariaDb(SqlBranch<MySql>),
}

/// What one transfer does.
struct Order {
    number: i64,
    /// One account in each database.
    accounts: [i64; 2],
    /// What moves from the first database to the second.
    amount: i64,
    /// Whether the first database takes part with its own unit of work, whose commit is the decision, or is prepared, too.
    at_home: bool,
    protocol: Protocol,
}

impl Order {
    fn of(seed: u64, number: i64) -> Self {
        let mut dice = Dice::new(seed ^ number.unsigned_abs().rotate_left(32));
        let mut below = |bound: i64| i64::try_from(dice.below(bound.unsigned_abs())).unwrap_or_default();
        let accounts = [below(ACCOUNTS), below(ACCOUNTS)];
        let amount = if below(25) == 0 { TOO_MUCH } else { 1 + below(20) };
        let amount = if below(2) == 0 { amount } else { -amount };
        let (at_home, three) = (below(2) == 0, below(4) == 0);
        let protocol = if three { Protocol::ThreePhase } else { Protocol::TwoPhase };
        Self { number, accounts, amount, at_home, protocol }
    }

    fn statements(&self, at: usize) -> [String; 2] {
        let Self { number, accounts, amount, .. } = self;
        let added = if at == 0 { -amount } else { *amount };
        [
            format!("UPDATE account SET balance=balance+({added}) WHERE id={}", accounts[at]),
            format!("INSERT INTO transfer(id,amount)VALUES({number},{amount})"),
        ]
    }
}

impl Books {
    /// Connects to two databases that [`create`](Self::create) has made ready.
    ///
    /// # Errors
    /// When one of them cannot be reached.
    pub async fn open(urls: &[String; 2], settings: Settings) -> Result<Self, Error> {
        let pools = [AnyPool::connect(&urls[0], 24).await?, AnyPool::connect(&urls[1], 24).await?];
        let AnyPool::Postgres(pool) = &pools[0] else {
            return Err(Error::new("the first database is PostgreSQL"));
        };
        let log = Arc::new(SqlDecisionLog::new(pool.clone()));
        let first = SqlResource::new(ResourceId::new("first")?, pool.clone());
        let mut resources: Vec<Arc<dyn Resource>> = vec![first.clone()];
        let id = ResourceId::new("second")?;
        let second = match &pools[1] {
            AnyPool::Postgres(pool) => {
                let resource = SqlResource::new(id, pool.clone());
                resources.push(resource.clone());
                Second::Postgres(resource)
            }
            AnyPool::MySql(pool) => {
                let resource = SqlResource::new(id, pool.clone());
                resources.push(resource.clone());
                Second::MariaDb(resource)
            }
            _ => return Err(Error::new("the second database can be prepared")),
        };
        let coordinator = Coordinator::connect(log.clone(), resources, settings).await?;
        Ok(Self { coordinator, pools, log, first, second })
    }

    /// Makes a database ready.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn create(url: &str) -> Result<(), Error> {
        let pool = AnyPool::connect(url, 1).await?;
        barid::store::schema::apply(&pool).await?;
        let accounts: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id},{BALANCE})")).collect();
        for statement in [
            "CREATE TABLE account(id BIGINT PRIMARY KEY, balance BIGINT NOT NULL CHECK(balance >= 0))"
                .to_owned(),
            "CREATE TABLE transfer(id BIGINT PRIMARY KEY, amount BIGINT NOT NULL)".to_owned(),
            format!("INSERT INTO account(id,balance)VALUES{}", accounts.join(",")),
        ] {
            sql::execute(&pool, &statement).await?;
        }
        pool.close().await;
        Ok(())
    }

    /// Makes the transfer of this number.
    pub async fn transfer(&self, seed: u64, number: i64) -> (End, Option<Error>) {
        match self.transferred(&Order::of(seed, number)).await {
            Ok(()) => (End::Committed, None),
            Err(error) => {
                let end = match error.find::<DistributedError>() {
                    Some(DistributedError::InDoubt { .. } | DistributedError::Panicked { .. }) => {
                        End::InDoubt
                    }
                    Some(DistributedError::HeuristicMixed { .. }) => End::Mixed,
                    // Rolled back, or failed before anybody was asked to prepare.
                    _ => End::Aborted,
                };
                (end, Some(error))
            }
        }
    }

    async fn transferred(&self, order: &Order) -> Result<(), Error> {
        let mut unit = DistributedUnitOfWork::new(&self.coordinator).protocol(order.protocol);
        let first = if order.at_home {
            let home = SqlHome::new(&self.log);
            unit.register_home(home.clone())?;
            Desk::Home(home)
        } else {
            let branch = self.first.branch();
            unit.register_participant("first", branch.clone())?;
            Desk::Postgres(branch)
        };
        let second = match &self.second {
            Second::Postgres(resource) => {
                let branch = resource.branch();
                unit.register_participant("second", branch.clone())?;
                Desk::Postgres(branch)
            }
            Second::MariaDb(resource) => {
                let branch = resource.branch();
                unit.register_participant("second", branch.clone())?;
                Desk::MariaDb(branch)
            }
        };
        // Always in this order: two transfers never wait for each other.
        let work = async || {
            first.writes(&order.statements(0)).await?;
            first.publishes(order.number);
            second.writes(&order.statements(1)).await
        };
        unit.run(work).await.map(drop)
    }

    /// Whether no transaction and no branch is under way. An error is no answer.
    pub async fn is_quiet(&self) -> bool {
        let id = self.coordinator.id();
        let second = match &self.second {
            Second::Postgres(resource) => resource.prepared(id).await,
            Second::MariaDb(resource) => resource.prepared(id).await,
        };
        let none = |found: Result<Vec<_>, _>| found.is_ok_and(|branches| branches.is_empty());
        none(self.first.prepared(id).await)
            && none(second)
            && self.unfinished().await.is_ok_and(|open| open == 0)
    }

    /// How many transactions are not over.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unfinished(&self) -> Result<i64, sqlx::Error> {
        sql::number(&self.pools[0], "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL").await
    }

    /// The transfers that each of the databases has, with what moved.
    ///
    /// # Errors
    /// What a database says.
    pub async fn transfers(&self) -> Result<[BTreeMap<i64, i64>; 2], sqlx::Error> {
        let query = "SELECT id, amount FROM transfer";
        Ok([sql::pairs(&self.pools[0], query).await?, sql::pairs(&self.pools[1], query).await?])
    }

    /// What all accounts of both databases have together.
    ///
    /// # Errors
    /// What a database says.
    pub async fn sum(&self) -> Result<i64, sqlx::Error> {
        let mut sum = 0;
        for pool in &self.pools {
            sum += sql::pairs(pool, "SELECT id, balance FROM account").await?.values().sum::<i64>();
        }
        Ok(sum)
    }
}

impl Desk {
    async fn writes(&self, statements: &[String]) -> Result<(), Error> {
        for statement in statements {
            let text = raw_sql(AssertSqlSafe(statement.clone()));
            match self {
                Self::Home(home) => (&mut *home.connection().await?).execute(text).await.map(drop)?,
                Self::Postgres(branch) => (&mut *branch.connection().await?).execute(text).await.map(drop)?,
                Self::MariaDb(branch) => (&mut *branch.connection().await?).execute(text).await.map(drop)?,
            }
        }
        Ok(())
    }

    fn publishes(&self, number: i64) {
        let row = OutgoingRow {
            seq: 0,
            id: Uuid::now_v7(),
            destination: Destination::topic("transfers").expect("a plain name"),
            aggregatetype: "transfers".to_owned(),
            aggregateid: Some(number.to_string()),
            name: "transfers.made".to_owned(),
            payload: None,
            headers: Headers::new(),
            tracingspancontext: None,
            wire: None,
        };
        match self {
            Self::Home(home) => home.publish([row]),
            Self::Postgres(branch) => branch.publish([row]),
            Self::MariaDb(branch) => branch.publish([row]),
        }
    }
}
