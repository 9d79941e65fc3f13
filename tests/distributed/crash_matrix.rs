//! A process dies at every point of a distributed transaction, and others recover.
//!
//! Each case is one transfer by `distributed-transfer`, which is aborted at a named point; this process, and where the case says so
//! another one that is aborted too, recovers it. Then SQL says whether all databases, the outbox and the idempotency record agree,
//! and whether it is the outcome that the point demands; so does what is left when it is forgotten. Points that lie on the wire are in
//! `wire`. A seeded sample here, every case with `BARID_TEST_LONG=1`.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{any::Any, os::unix::process::ExitStatusExt, time::Duration};

use barid::distributed::Gid;
use barid_tests::{
    Process, TestDatabase,
    dice::Dice,
    eventually, servers,
    transfer::{Bank, Scenario, forgetful, impatient, number},
};
use tokio::process::Command;

#[path = "crash_matrix/wire.rs"]
mod wire;

const LONG: Duration = Duration::from_secs(120);
const SIGABRT: i32 = 6;

/// How many cases of each stage are tried unless all are, and of those at a request on the wire.
const SAMPLE: usize = 7;
const WIRE_SAMPLE: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Case {
    scenario: Scenario,
    /// Where the coordinator dies.
    at: &'static str,
    /// Where the first recovery dies, if one does.
    recovery_at: Option<&'static str>,
    /// Where the first process dies that forgets what is over, if one does.
    purge_at: Option<&'static str>,
    /// Whether it must have committed.
    commits: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |scenario, points: &[&'static str], commits| {
        for &at in points {
            all.push(Case { scenario, at, recovery_at: None, purge_at: None, commits });
        }
    };
    add(Scenario::Yes, &["c0", "c1", "c2", "c3", "c5", "c6"], false);
    add(Scenario::Yes, &["c9", "c11", "c12", "c13"], true);
    add(Scenario::ThreePhase, &["p1"], false);
    add(Scenario::ThreePhase, &["c9"], true);
    add(Scenario::No, &["c3", "c5", "a1", "c12", "c13"], false);
    add(Scenario::Timeout, &["c5", "a1", "a2", "c12", "c13"], false);
    for point in ["r1", "r2", "r3", "r4"] {
        let case = Case { recovery_at: Some(point), ..all[0] };
        all.push(Case { at: "c6", commits: false, ..case });
        // With a decision that stands recovery has nothing to decide.
        if point != "r2" {
            all.push(Case { at: "c9", commits: true, ..case });
        }
    }
    for point in ["c14", "c14-forgotten"] {
        // Over in both ways, and half forgotten.
        let case = Case { purge_at: Some(point), ..all[0] };
        all.push(Case { at: "c13", commits: true, ..case });
        all.push(Case { scenario: Scenario::No, at: "c13", commits: false, ..case });
    }
    all
}

/// Differs from stage to stage and from day to day.
fn dice(stage: &str) -> Dice {
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| barid::clock::now().timestamp().unsigned_abs() / 86_400);
    println!("{stage}: BARID_TEST_SEED={seed}");
    Dice::new(seed ^ stage.bytes().map(u64::from).sum::<u64>() << 32)
}

/// Every case, or some of them.
fn chosen<T>(dice: &mut Dice, mut all: Vec<T>, sample: usize) -> Vec<T> {
    if servers::long() {
        return all;
    }
    let mut picked = Vec::new();
    while picked.len() < sample && !all.is_empty() {
        picked.push(all.swap_remove(usize::try_from(dice.below(all.len() as u64)).unwrap()));
    }
    picked
}

async fn matrix(stage: &str, databases: Vec<(String, Box<dyn Any>)>) {
    let urls: Vec<String> = databases.iter().map(|(url, _)| url.clone()).collect();
    let (mut dice, cases, wired) = (dice(stage), cases(), wire::cases(&urls));
    let (cases, wired) = (chosen(&mut dice, cases, SAMPLE), chosen(&mut dice, wired, WIRE_SAMPLE));
    let count = cases.len() + wired.len();
    Bank::create(&urls, i64::try_from(count).unwrap()).await.unwrap();
    let bank = Bank::open(&urls, impatient()).await.unwrap();
    for (account, case) in (0..).zip(&cases) {
        println!("{stage}: {case:?}");
        one(&bank, &urls, account, *case).await;
    }
    for (account, case) in (cases.len()..).zip(wired) {
        println!("{stage}: {case:?}");
        wire::one(&bank, &urls, i64::try_from(account).unwrap(), case).await;
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
    if let Some(point) = case.purge_at {
        forgotten(bank, urls, gid, point).await;
        assert_eq!(bank.happened(account).await, case.commits, "{case:?}, forgotten");
    }
}

/// What is over is forgotten by a process that dies over it, and then by another one.
async fn forgotten(bank: &Bank, urls: &[String], gid: Gid, point: &str) {
    // What is older is in nobody's way.
    let other = Bank::open(urls, forgetful()).await.unwrap();
    let mut purge = Command::new(env!("CARGO_BIN_EXE_distributed-transfer"));
    let mut purge = Process::start(purge.arg("purge").args(urls).env("BARID_CRASH_AT", point));
    let status = purge.ended(LONG).await;
    assert_eq!(status.signal(), Some(SIGABRT), "{point}: purge\n{}", purge.log().join("\n"));
    eventually(LONG, "it is forgotten", || async {
        other.coordinator.purge_once().await.unwrap();
        // Recovery finds nothing to do for what is half forgotten.
        let found = bank.coordinator.recover_once().await.unwrap();
        assert_eq!((found.heuristic, found.left, found.orphans), (0, 0, 0), "{found:?}");
        bank.known(gid).await.is_none()
    })
    .await;
    for (at, pool) in bank.pools.iter().enumerate() {
        for table in ["dtx_marker", "event_transaction"] {
            let left = number(pool, &format!("SELECT count(*) FROM {table} WHERE xid LIKE '%{gid}%'")).await;
            assert_eq!(left, 0, "{point}: {table} of database {at}");
        }
    }
    other.close().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_home_and_staged_events() {
    let mariadb = TestDatabase::mariadb().await;
    let mariadb = (format!("events+{}", mariadb.url), Box::new(mariadb) as Box<dyn Any>);
    let (url, postgres_events) = postgres().await;
    let postgres_events = (format!("events+{url}"), postgres_events);
    matrix("PostgreSQL home + staged events", vec![postgres().await, postgres_events, mariadb]).await;
}
