//! One transfer of `barid_tests::transfer`, or one recovery, in a process that can be killed.
//!
//! `distributed-transfer transfer ACCOUNT SCENARIO URL URL URL`, `distributed-transfer recover URL URL URL`, or
//! `distributed-transfer purge URL URL URL`, which forgets what is over. Dies at the point that `BARID_CRASH_AT` names.

use std::time::Duration;

use anyhow::{Result, bail};
use barid_tests::transfer::{Bank, Scenario, forgetful, impatient};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["transfer", account, scenario, _, _, _] => {
            let Some(scenario) = Scenario::parse(scenario) else {
                bail!("no scenario is called {scenario:?}")
            };
            transfer(account.parse()?, scenario, &arguments[3..]).await
        }
        ["recover", _, _, _] => {
            let bank = Bank::open(&arguments[1..], impatient()).await.map_err(anyhow::Error::msg)?;
            loop {
                println!("{:?}", bank.coordinator.recover_once().await?);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        ["purge", _, _, _] => {
            let bank = Bank::open(&arguments[1..], forgetful()).await.map_err(anyhow::Error::msg)?;
            loop {
                println!("{} purged", bank.coordinator.purge_once().await?);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        _ => bail!(
            "usage: distributed-transfer transfer ACCOUNT SCENARIO URL URL URL | recover URL URL URL | purge URL URL URL"
        ),
    }
}

async fn transfer(account: i64, scenario: Scenario, urls: &[String]) -> Result<()> {
    let mut settings = impatient();
    if scenario == Scenario::Timeout {
        settings.timeouts.prepare = Duration::from_millis(700);
    }
    let bank = Bank::open(urls, settings).await.map_err(anyhow::Error::msg)?;
    let (mut unit, transfer) = bank.transfer(account, scenario).map_err(anyhow::Error::msg)?;
    println!("gid {}", unit.transaction_id());
    unit.begin().await?;
    if std::env::var("BARID_CRASH_AT").is_ok_and(|at| at == "c2") {
        transfer.work_until(1).await.map_err(anyhow::Error::msg)?;
        std::process::abort();
    }
    transfer.work().await.map_err(anyhow::Error::msg)?;
    match unit.commit().await {
        Ok(report) => println!("committed, {} pending", report.pending.len()),
        Err(error) => println!("not committed: {error}"),
    }
    Ok(())
}
