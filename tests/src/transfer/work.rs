//! What has to be done in one transfer: the debit at home, the credits elsewhere.

use barid::{
    Destination, Error, Headers,
    distributed::{SqlBranch, SqlHome},
    transport::OutgoingRow,
};
use sqlx::{AssertSqlSafe, Executor, MySql, Postgres, Sqlite, raw_sql};
use uuid::Uuid;

use super::{
    AMOUNT, Scenario,
    events::{self, EventsUnit},
};

/// Runs statements on the connection of a home or a branch, up to the first that fails.
macro_rules! does {
    ($unit:expr, $($statement:expr),+) => {{
        let mut db = $unit.connection().await?;
        let mut done: Result<(), sqlx::Error> = Ok(());
        $(if done.is_ok() {
            done = (&mut *db).execute(raw_sql(AssertSqlSafe($statement.clone()))).await.map(drop);
        })+
        done
    }};
}

pub(super) enum HomeUnit {
    Postgres(SqlHome<Postgres>),
    MariaDb(SqlHome<MySql>),
    Sqlite(SqlHome<Sqlite>),
}

pub(super) enum Branch {
    Postgres(SqlBranch<Postgres>),
    MariaDb(SqlBranch<MySql>),
    Events(EventsUnit),
}

/// What has to be done in a transaction that has begun.
pub struct Transfer {
    pub(super) account: i64,
    pub(super) scenario: Scenario,
    pub(super) home: HomeUnit,
    pub(super) branches: Vec<Branch>,
}

impl Transfer {
    /// Does it.
    ///
    /// # Errors
    /// When a database refuses.
    pub async fn work(&self) -> Result<(), Error> {
        self.work_until(usize::MAX).await
    }

    /// Does it in home and the first `branches` others.
    ///
    /// # Errors
    /// When a database refuses.
    pub async fn work_until(&self, branches: usize) -> Result<(), Error> {
        let account = self.account;
        let others = i64::try_from(self.branches.len())?;
        let debit = format!("UPDATE account SET balance=balance-{} WHERE id={account}", AMOUNT * others);
        let id = Uuid::now_v7();
        let record = |literal: String| {
            format!("INSERT INTO idempotency(message_id,scope)VALUES({literal},'transfer-{account}')")
        };
        let hex = id.simple();
        match &self.home {
            HomeUnit::Postgres(home) => {
                does!(home, debit, record(format!("'{id}'")))?;
                home.publish([row(account)]);
            }
            HomeUnit::MariaDb(home) => {
                does!(home, debit, record(format!("X'{hex}'")))?;
                home.publish([row(account)]);
            }
            HomeUnit::Sqlite(home) => {
                does!(home, debit, record(format!("X'{hex}'")))?;
                home.publish([row(account)]);
            }
        }
        for (at, branch) in self.branches.iter().enumerate().take(branches) {
            let credit = format!("UPDATE account SET balance=balance+{AMOUNT} WHERE id={account}");
            let fails = self.scenario == Scenario::No && at == 1;
            let insert = format!("INSERT INTO account(id,balance)VALUES({account},1)");
            match branch {
                Branch::Postgres(branch) => {
                    does!(branch, credit)?;
                    if fails {
                        assert!(does!(branch, insert).is_err(), "the account exists");
                    }
                }
                Branch::MariaDb(branch) => {
                    does!(branch, credit)?;
                    if fails {
                        assert!(does!(branch, insert).is_err(), "the account exists");
                    }
                }
                Branch::Events(events) => events::credit(events, account, fails).await?,
            }
        }
        Ok(())
    }
}

fn row(account: i64) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: Destination::topic("transfers").expect("a plain name"),
        aggregatetype: "transfers".to_owned(),
        aggregateid: Some(account.to_string()),
        name: "transfers.made".to_owned(),
        payload: None,
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}
