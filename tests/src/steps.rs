//! Money that moves from one database to another in an orchestrated saga of three steps.
//!
//! Shared by the tests and by the program that they kill (`saga-steps`), so that both mean the same saga. Every saga has an account of
//! its own in each database; each effect leaves a row, so that a second one is seen.

use std::time::Duration;

use barid::{
    Error, Result, RetryPolicy, UnitConnection,
    orchestration::{
        Ended, Orchestrator, OrchestratorSettings, SagaDefinition, SagaId, SqlSagaLog, SqlWork, Step,
        StepContext, StepDatabase,
    },
    store::{AnyPool, Backend, schema},
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor, MySql, Pool, Postgres, Sqlite, raw_sql};

use crate::sql;

/// What moves.
pub const AMOUNT: i64 = 10;

/// What every account has before.
pub const BALANCE: i64 = 1_000;

/// What a saga is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Whose money, in both databases.
    pub account: i64,
    /// The step whose action fails for good.
    pub fails: Option<String>,
}

/// The two databases: the first keeps the sagas, and the account that money is taken from.
pub struct Tills {
    /// Both.
    pub pools: [AnyPool; 2],
    /// Its three steps can be undone.
    pub transfer: SagaDefinition<Transfer>,
    /// After its second step there is no way back.
    pub payment: SagaDefinition<Transfer>,
}

impl Tills {
    /// Applies the schema, and opens `accounts` accounts in each database.
    ///
    /// # Errors
    /// When a database refuses.
    pub async fn create(urls: [&str; 2], accounts: i64) -> Result<()> {
        for url in urls {
            let pool = AnyPool::connect(url, 2).await?;
            schema::apply(&pool).await?;
            for table in [
                "CREATE TABLE account(id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)",
                "CREATE TABLE effect(account BIGINT NOT NULL, step VARCHAR(50) NOT NULL, op VARCHAR(10) NOT NULL)",
                // Whatever is named here fails, until it is removed.
                "CREATE TABLE broken(what VARCHAR(50) PRIMARY KEY)",
            ] {
                sql::execute(&pool, table).await?;
            }
            let rows: Vec<String> = (0..accounts).map(|id| format!("({id},{BALANCE})")).collect();
            sql::execute(&pool, &format!("INSERT INTO account(id,balance)VALUES{}", rows.join(","))).await?;
            pool.close().await;
        }
        Ok(())
    }

    /// Connects to both.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub async fn open(urls: [&str; 2]) -> Result<Self> {
        let pools = [AnyPool::connect(urls[0], 10).await?, AnyPool::connect(urls[1], 10).await?];
        let steps = |undone: bool| -> [Step<Transfer>; 3] {
            let [from, to] = &pools;
            [
                step_on(from, "debit", -AMOUNT, true),
                step_on(to, "credit", AMOUNT, undone),
                step_on(from, "record", 0, undone),
            ]
        };
        let [debit, credit, record] = steps(true);
        let transfer = SagaDefinition::new("transfer", 1).step(debit).step(credit).step(record);
        let [debit, credit, record] = steps(false);
        // One attempt: a lost answer is not tried again but asked for.
        let payment =
            SagaDefinition::new("payment", 1).step(debit).pivot(credit.retry(tries(1))).step(record);
        Ok(Self { pools, transfer, payment })
    }

    /// An orchestrator of both sagas.
    ///
    /// # Errors
    /// Never for tills that could be opened.
    pub fn orchestrator(&self, settings: OrchestratorSettings) -> Result<Orchestrator> {
        let builder = match &self.pools[0] {
            AnyPool::Postgres(pool) => Orchestrator::builder(SqlSagaLog::new(pool.clone())),
            AnyPool::MySql(pool) => Orchestrator::builder(SqlSagaLog::new(pool.clone())),
            AnyPool::Sqlite(pool) => Orchestrator::builder(SqlSagaLog::new(pool.clone())),
            _ => panic!("these tests know three kinds of database"),
        };
        Ok(builder.saga(&self.transfer).saga(&self.payment).settings(settings).build()?)
    }

    /// The saga of an account.
    ///
    /// # Errors
    /// Never.
    pub fn saga(&self, name: &str, transfer: &Transfer) -> Result<barid::orchestration::NewSaga> {
        let definition = if name == "payment" { &self.payment } else { &self.transfer };
        Ok(definition.instance(Self::id(transfer.account), transfer)?)
    }

    /// The id of the saga of an account.
    #[must_use]
    pub fn id(account: i64) -> SagaId {
        SagaId::of(&format!("account-{account}"))
    }

    /// The time of the process that has the saga is over: it is known to be dead.
    ///
    /// # Panics
    /// When the database does not answer.
    pub async fn release(&self, account: i64) {
        let update = "UPDATE orchestration SET lease_until=started_at,next_run_at=started_at WHERE id=";
        let update = format!("{update}'{}'", Self::id(account));
        sql::execute(&self.pools[0], &update).await.expect("the database of the sagas answers");
    }

    /// That every effect of a saga happened as often as how it ended says: once, or once and undone, or never.
    ///
    /// # Panics
    /// When it did not.
    pub async fn check(&self, account: i64, ended: &Ended) {
        let completed = *ended == Ended::Completed;
        let mut sum = 0;
        for (at, pool) in self.pools.iter().enumerate() {
            let balance = format!("SELECT balance FROM account WHERE id={account}");
            let balance = sql::number(pool, &balance).await.expect("the account is there");
            let moved = if at == 0 { -AMOUNT } else { AMOUNT };
            let expected = if completed { BALANCE + moved } else { BALANCE };
            assert_eq!(balance, expected, "database {at} of account {account}, {ended:?}");
            sum += balance;
        }
        assert_eq!(sum, 2 * BALANCE, "no money is lost and none is made");
        for step in ["debit", "credit", "record"] {
            let (done, undone) =
                (self.effects(account, step, "done").await, self.effects(account, step, "undone").await);
            assert!(done <= 1 && undone <= done, "step {step} of account {account}: {done}, {undone} undone");
            let wanted = if completed { (1, 0) } else { (done, done) };
            assert_eq!((done, undone), wanted, "step {step} of account {account}, {ended:?}");
        }
    }

    /// How often the action (`done`) or the compensation (`undone`) of a step had its effect.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn effects(&self, account: i64, step: &str, op: &str) -> i64 {
        let count =
            format!("SELECT count(*) FROM effect WHERE account={account} AND step='{step}' AND op='{op}'");
        let mut all = 0;
        for pool in &self.pools {
            all += sql::number(pool, &count).await.expect("the effects can be counted");
        }
        all
    }

    /// Closes every connection.
    pub async fn close(self) {
        for pool in &self.pools {
            sql::close(pool).await;
        }
    }
}

/// With bounds that no healthy step comes near.
#[must_use]
pub fn patient() -> OrchestratorSettings {
    OrchestratorSettings { poll: Duration::from_millis(50), ..OrchestratorSettings::default() }
}

/// So many tries in a row.
#[must_use]
pub fn tries(attempts_max: u32) -> RetryPolicy {
    let pause = Duration::from_millis(10);
    RetryPolicy { attempts_max, immediate_max: attempts_max, pause, pause_max: pause }
}

fn step_on(pool: &AnyPool, step: &'static str, amount: i64, undone: bool) -> Step<Transfer> {
    match pool {
        AnyPool::Postgres(pool) => moves::<Postgres>(pool, step, amount, undone),
        AnyPool::MySql(pool) => moves::<MySql>(pool, step, amount, undone),
        AnyPool::Sqlite(pool) => moves::<Sqlite>(pool, step, amount, undone),
        _ => panic!("these tests know three kinds of database"),
    }
}

/// A step that moves money on an account.
fn moves<DB: Backend>(pool: &Pool<DB>, step: &'static str, amount: i64, undone: bool) -> Step<Transfer>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    let work: SqlWork<Transfer, DB> =
        StepDatabase::new(pool.clone()).work(move |cx, db| does::<DB>(cx, db, step, "done", amount));
    let work = match undone {
        true => work.undo(move |cx, db| does::<DB>(cx, db, step, "undone", -amount)),
        false => work,
    };
    Step::new(step, work).retry(tries(3)).retry_compensation(tries(3))
}

fn does<'c, DB: Backend>(
    cx: StepContext<Transfer>,
    db: &'c mut UnitConnection<DB>,
    step: &'static str,
    op: &'static str,
    amount: i64,
) -> BoxFuture<'c, Result<()>>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    Box::pin(async move {
        let account = cx.account;
        if op == "done" && cx.fails.as_deref() == Some(step) {
            return Err(Error::permanent(format!("{step} is not possible")));
        }
        let effect = format!(
            "INSERT INTO effect(account,step,op)SELECT {account},'{step}','{op}' FROM account WHERE id={account} \
             AND NOT EXISTS(SELECT 1 FROM broken WHERE what='{op} {step} {account}')"
        );
        if run::<DB>(db, effect).await? != 1 {
            return Err(Error::new(format!("{op} {step} is broken")));
        }
        run::<DB>(db, format!("UPDATE account SET balance=balance+({amount}) WHERE id={account}"))
            .await
            .map(drop)
    })
}

async fn run<DB: Backend>(db: &mut UnitConnection<DB>, statement: String) -> Result<u64>
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    Ok(DB::affected(&db.execute(raw_sql(AssertSqlSafe(statement))).await?))
}
