//! A process dies at every point of a distributed transaction, and others recover.
//!
//! Each case is one transfer by `distributed-transfer`, which is aborted at a named point; this process, and where the case says so
//! another one that is aborted too, recovers it. Then SQL says whether all databases, the outbox and the idempotency record agree,
//! and whether it is the outcome that the point demands. A seeded sample here, every case with `BARID_TEST_LONG=1`.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{any::Any, os::unix::process::ExitStatusExt, time::Duration};

use barid_tests::{
    Process, TestDatabase,
    dice::Dice,
    eventually, servers,
    transfer::{Bank, Scenario, impatient, number},
};
use tokio::process::Command;

const LONG: Duration = Duration::from_secs(120);
const SIGABRT: i32 = 6;

/// How many cases of each stage are tried unless all are.
const SAMPLE: usize = 7;

#[derive(Clone, Copy, Debug)]
struct Case {
    scenario: Scenario,
    /// Where the coordinator dies.
    at: &'static str,
    /// Where the first recovery dies, if one does.
    recovery_at: Option<&'static str>,
    /// Whether it must have committed.
    commits: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |scenario, points: &[&'static str], commits| {
        for &at in points {
            all.push(Case { scenario, at, recovery_at: None, commits });
        }
    };
    add(Scenario::Yes, &["c0", "c1", "c2", "c3", "c5", "c6"], false);
    add(Scenario::Yes, &["c9", "c11", "c12", "c13"], true);
    add(Scenario::ThreePhase, &["p1"], false);
    add(Scenario::ThreePhase, &["c9"], true);
    add(Scenario::No, &["c3", "c5", "a1", "c12", "c13"], false);
    add(Scenario::Timeout, &["c5", "a1", "a2", "c12", "c13"], false);
    for point in ["r1", "r2", "r3", "r4"] {
        all.push(Case { scenario: Scenario::Yes, at: "c6", recovery_at: Some(point), commits: false });
        // With a decision that stands recovery has nothing to decide.
        if point != "r2" {
            all.push(Case { scenario: Scenario::Yes, at: "c9", recovery_at: Some(point), commits: true });
        }
    }
    all
}

/// Every case, or some of them that differ from stage to stage and from day to day.
fn chosen(stage: &str) -> Vec<Case> {
    let all = cases();
    if servers::long() {
        return all;
    }
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| barid::clock::now().timestamp().unsigned_abs() / 86_400);
    println!("{stage}: BARID_TEST_SEED={seed}");
    let mut dice = Dice::new(seed ^ stage.bytes().map(u64::from).sum::<u64>() << 32);
    let mut left = all;
    let mut picked = Vec::new();
    for _ in 0..SAMPLE {
        picked.push(left.swap_remove(usize::try_from(dice.below(left.len() as u64)).unwrap()));
    }
    picked
}

async fn matrix(stage: &str, databases: Vec<(String, Box<dyn Any>)>) {
    let urls: Vec<String> = databases.iter().map(|(url, _)| url.clone()).collect();
    let cases = chosen(stage);
    Bank::create(&urls, i64::try_from(cases.len()).unwrap()).await.unwrap();
    let bank = Bank::open(&urls, impatient()).await.unwrap();
    for (account, case) in (0..).zip(cases) {
        println!("{stage}: {case:?}");
        one(&bank, &urls, account, case).await;
    }
    assert_eq!(bank.prepared().await, 0, "{stage}: nothing stays prepared");
    let silent = "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL OR status NOT IN('committed','aborted')";
    assert_eq!(
        number(&bank.pools[0], silent).await,
        0,
        "{stage}: every transaction is over, and none is heuristic"
    );
    bank.close().await;
}

async fn one(bank: &Bank, urls: &[String], account: i64, case: Case) {
    let mut coordinator = Command::new(env!("CARGO_BIN_EXE_distributed-transfer"));
    coordinator.arg("transfer").arg(account.to_string()).arg(format!("{:?}", case.scenario)).args(urls);
    let mut coordinator = Process::start(coordinator.env("BARID_CRASH_AT", case.at));
    let status = coordinator.ended(LONG).await;
    let log = coordinator.log();
    assert_eq!(status.signal(), Some(SIGABRT), "{case:?} did not die at its point\n{}", log.join("\n"));
    let gid = log.iter().find_map(|line| line.strip_prefix("gid ")).unwrap().parse().unwrap();
    if let Some(point) = case.recovery_at {
        let mut recovery = Command::new(env!("CARGO_BIN_EXE_distributed-transfer"));
        recovery.arg("recover").args(urls).env("BARID_CRASH_AT", point);
        let mut recovery = Process::start(&mut recovery);
        let status = recovery.ended(LONG).await;
        assert_eq!(status.signal(), Some(SIGABRT), "{case:?}: recovery\n{}", recovery.log().join("\n"));
    }
    eventually(LONG, &format!("{case:?} is over"), || async {
        bank.coordinator.recover_once().await.unwrap();
        bank.known(gid).await.is_none_or(|known| known.finished) && bank.prepared().await == 0
    })
    .await;
    assert_eq!(bank.happened(account).await, case.commits, "{case:?}");
}

async fn postgres() -> (String, Box<dyn Any>) {
    let database = TestDatabase::postgres().await;
    (database.url.clone(), Box::new(database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_postgres() {
    matrix("PostgreSQL + PostgreSQL", vec![postgres().await, postgres().await, postgres().await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_mariadb() {
    let mariadb = TestDatabase::mariadb().await;
    let mariadb = (mariadb.url.clone(), Box::new(mariadb) as Box<dyn Any>);
    matrix("PostgreSQL + MariaDB", vec![postgres().await, postgres().await, mariadb]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_home_and_postgres() {
    let home = TestDatabase::sqlite().await;
    let home = (home.url.clone(), Box::new(home) as Box<dyn Any>);
    matrix("SQLite home + PostgreSQL", vec![home, postgres().await, postgres().await]).await;
}
