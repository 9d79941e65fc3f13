//! A process dies at every step and every compensation of an orchestrated saga, and another one goes on with it.
//!
//! Each case is one saga of `saga-steps`, which is aborted at a named point; where the case says so, the one that goes on with it is
//! aborted too; then this process finishes it. SQL says that every step's effect happened once at most, that what had to be undone
//! was, and that the sums add up. Every case on two files, which take no time; a seeded sample on servers, every case there, too, with
//! `BARID_TEST_LONG=1`.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{any::Any, os::unix::process::ExitStatusExt, time::Duration};

use barid::orchestration::{Ended, Orchestrator};
use barid_tests::{
    Process, TestDatabase,
    dice::Dice,
    servers, sql,
    steps::{Tills, patient},
};
use tokio::process::Command;

#[path = "steps/commands.rs"]
mod commands;
#[path = "steps/turns.rs"]
mod turns;

const LONG: Duration = Duration::from_secs(120);
const SIGABRT: i32 = 6;

/// How many cases are tried on servers unless all are.
const SAMPLE: usize = 4;

/// Where processes die, and what must come of it.
#[derive(Clone, Debug)]
struct Case {
    saga: &'static str,
    /// The step whose action fails for good.
    fails: &'static str,
    at: String,
    /// Where the second one dies, if it does.
    then_at: Option<&'static str>,
    completes: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |saga, fails, at: String, then_at, completes| {
        all.push(Case { saga, fails, at, then_at, completes });
    };
    add("transfer", "-", "claimed".to_owned(), None, true);
    for step in ["debit", "credit", "record"] {
        for point in ["act", "in act", "acted"] {
            add("transfer", "-", format!("{point} {step}"), None, true);
        }
    }
    add("transfer", "-", "finishing".to_owned(), None, true);
    add("transfer", "record", "acted record".to_owned(), None, false);
    for step in ["credit", "debit"] {
        for point in ["compensate", "in compensation", "compensated"] {
            add("transfer", "record", format!("{point} {step}"), None, false);
        }
    }
    add("transfer", "record", "finishing".to_owned(), None, false);
    // One dies going forward, the next one going back.
    add("transfer", "record", "in act credit".to_owned(), Some("in compensation credit"), false);
    add("transfer", "record", "acted credit".to_owned(), Some("compensated debit"), false);
    // The pivot is not tried again: it is asked whether it was done.
    add("payment", "-", "act credit".to_owned(), None, false);
    add("payment", "-", "in act credit".to_owned(), None, false);
    add("payment", "-", "acted credit".to_owned(), None, true);
    add("payment", "-", "act credit".to_owned(), Some("settled credit"), false);
    add("payment", "-", "acted credit".to_owned(), Some("settle credit"), true);
    add("payment", "-", "acted credit".to_owned(), Some("in act record"), true);
    add("payment", "credit", "compensate debit".to_owned(), None, false);
    all
}

/// Every case, or some of them: others every day.
fn chosen(stage: &str, sample: usize) -> Vec<Case> {
    let mut all = cases();
    if servers::long() || sample >= all.len() {
        return all;
    }
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| barid::clock::now().timestamp().unsigned_abs() / 86_400);
    println!("{stage}: BARID_TEST_SEED={seed}");
    let mut dice = Dice::new(seed ^ stage.bytes().map(u64::from).sum::<u64>() << 32);
    let mut pick = || all.swap_remove(usize::try_from(dice.below(all.len() as u64)).unwrap());
    (0..sample).map(|_| pick()).collect()
}

/// Runs the program until it dies at a point.
async fn dies(arguments: &[&str], urls: [&str; 2], at: &str, case: &Case) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga-steps"));
    let mut process = Process::start(command.args(arguments).args(urls).env("BARID_CRASH_AT", at));
    let status = process.ended(LONG).await;
    let log = process.log().join("\n");
    assert_eq!(status.signal(), Some(SIGABRT), "{case:?} did not die at {at:?}\n{log}");
}

async fn matrix(stage: &str, sample: usize, databases: [(String, Box<dyn Any>); 2]) {
    let urls = [databases[0].0.as_str(), databases[1].0.as_str()];
    let cases = chosen(stage, sample);
    Tills::create(urls, i64::try_from(cases.len()).unwrap()).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    let orchestrator = tills.orchestrator(patient()).unwrap();
    for (account, case) in (0..).zip(&cases) {
        println!("{stage}: {case:?}");
        one(&tills, &orchestrator, urls, account, case).await;
    }
    let open = "SELECT count(*) FROM orchestration WHERE finished_at IS NULL";
    assert_eq!(sql::number(&tills.pools[0], open).await.unwrap(), 0, "{stage}: every saga is over");
    orchestrator.drain().await;
    tills.close().await;
}

async fn one(tills: &Tills, orchestrator: &Orchestrator, urls: [&str; 2], account: i64, case: &Case) {
    let number = account.to_string();
    dies(&["run", case.saga, &number, case.fails], urls, &case.at, case).await;
    tills.release(account).await;
    if let Some(at) = case.then_at {
        dies(&["resume", &number], urls, at, case).await;
        tills.release(account).await;
    }
    let ended = tokio::time::timeout(LONG, orchestrator.finish(Tills::id(account))).await.unwrap().unwrap();
    assert_eq!(ended == Ended::Completed, case.completes, "{case:?}: {ended:?}");
    assert!(!matches!(ended, Ended::NeedsHelp { .. }), "{case:?}: {ended:?}");
    tills.check(account, &ended).await;
}

async fn postgres() -> (String, Box<dyn Any>) {
    let database = TestDatabase::postgres().await;
    (database.url.clone(), Box::new(database))
}

async fn sqlite() -> (String, Box<dyn Any>) {
    let database = TestDatabase::sqlite().await;
    (database.url.clone(), Box::new(database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_postgres() {
    matrix("PostgreSQL + PostgreSQL", SAMPLE, [postgres().await, postgres().await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_mariadb() {
    let mariadb = TestDatabase::mariadb().await;
    let mariadb = (mariadb.url.clone(), Box::new(mariadb) as Box<dyn Any>);
    matrix("PostgreSQL + MariaDB", SAMPLE, [postgres().await, mariadb]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sqlite_files() {
    matrix("SQLite + SQLite", usize::MAX, [sqlite().await, sqlite().await]).await;
}
