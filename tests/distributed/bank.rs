//! The bank walk: tellers move money between two databases while coordinators, recovery and the databases' servers are killed.
//!
//! Many transfers at once, each in a unit of work over both databases. By turns, in an order that a seed decides, the process of the
//! tellers and those of recovery end by signal 9 and the servers are stopped at once. When everything is quiet again, both databases
//! have the same transfers, with those rows in the outbox, every transfer that somebody was told of is there or not as he was told,
//! nothing is prepared, and the sum of all accounts is what it was. While transfers are under way it is not: branches become visible one
//! after the other.
//!
//! A short walk here, 10,000 transfers that commit with `BARID_TEST_LONG=1`. `BARID_TEST_SEED` repeats a seed.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "bank/books.rs"]
mod books;

use std::time::Duration;

use barid_tests::{
    PrivateServer, Process,
    dice::Dice,
    eventually,
    ledger::Fault,
    servers,
    walk::{Books, End},
};
use tokio::process::Command;

use self::books::{Journal, Servers};

/// Bounds every wait that ends with an event.
const PATIENCE: Duration = Duration::from_secs(180);

/// Transfers at once.
const WORKERS: usize = 8;

/// Recovering processes at once.
const RECOVERIES: usize = 2;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Coordinator,
    /// Recovery, while it has what a killed coordinator left.
    Recovery,
    First,
    Second,
}

const VICTIMS: [Victim; 4] = [Victim::Coordinator, Victim::Recovery, Victim::First, Victim::Second];

struct Walk {
    seed: u64,
    dice: Dice,
    servers: Servers,
    books: Books,
    journal: Journal,
    faults: Vec<Fault>,
    tellers: Option<Process>,
    recoveries: Vec<Process>,
}

impl Walk {
    fn program(&self, role: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_bank-walk"));
        program.arg(role).args(&self.servers.urls);
        program
    }

    fn open(&mut self) {
        let mut tellers = self.program("teller");
        tellers.arg(self.seed.to_string()).arg(self.journal.next().to_string()).arg(WORKERS.to_string());
        self.tellers = Some(Process::start(&mut tellers));
    }

    async fn recover(&mut self) {
        while self.recoveries.len() < RECOVERIES {
            let mut recovery = Process::start(&mut self.program("recover"));
            recovery.line_with("recovers", PATIENCE).await;
            self.recoveries.push(recovery);
        }
    }

    /// Until so many transfers have ended that the tellers of now have made, in this way or in any.
    async fn ended(&self, count: usize, end: Option<End>) {
        let tellers = self.tellers.as_ref().unwrap();
        let what = format!("{count} transfers ended ({end:?})");
        eventually(PATIENCE, &what, async || {
            let log = tellers.log();
            let ends = log.iter().filter_map(|line| Journal::end(line));
            ends.filter(|(_, how)| end.as_ref().is_none_or(|end| end == how)).count() >= count
        })
        .await;
    }

    /// Kills the tellers in the middle of their transfers. Returns how many were under way.
    async fn kill_tellers(&mut self) -> usize {
        let log = self.tellers.take().unwrap().kill().await;
        self.journal.read(&log)
    }

    async fn strike(&mut self, victim: Victim) {
        let some = 5 + usize::try_from(self.dice.below(30)).unwrap();
        self.ended(some, None).await;
        let evidence = match victim {
            Victim::Coordinator => {
                let left = self.kill_tellers().await;
                format!("signal 9, {left} transfers under way")
            }
            Victim::Recovery => {
                let left = self.kill_tellers().await;
                let open = self.half_recovered().await;
                for recovery in std::mem::take(&mut self.recoveries) {
                    let log = recovery.kill().await;
                    self.journal.alerts(&log);
                }
                format!("signal 9, {open} transactions open, {left} transfers were under way")
            }
            Victim::First => self.crash(0).await,
            Victim::Second => self.crash(1).await,
        };
        println!("{victim:?}: {evidence}");
        self.faults.push(Fault::new(format!("{victim:?}"), evidence));
        self.recover().await;
        if self.tellers.is_none() {
            self.open();
        }
    }

    /// Until recovery has done some of what killed tellers left. Returns how much is not done.
    async fn half_recovered(&mut self) -> i64 {
        let open = self.books.unfinished().await.unwrap();
        let some = i64::try_from(self.dice.below(open.unsigned_abs().max(1))).unwrap();
        let what = format!("of {open} transactions {some} are left");
        eventually(PATIENCE, &what, async || self.books.unfinished().await.unwrap() <= some).await;
        self.books.unfinished().await.unwrap()
    }

    /// Stops a server at once, lets the tellers feel it, and starts it again.
    async fn crash(&mut self, at: usize) -> String {
        let before = self.tellers.as_ref().unwrap().log().len();
        self.servers.all[at].crash().await;
        let tellers = self.tellers.as_ref().unwrap();
        eventually(PATIENCE, "a transfer fails without its database", async || {
            let log = tellers.log();
            let ends = log.iter().skip(before).filter_map(|line| Journal::end(line));
            ends.into_iter().any(|(_, end)| end != End::Committed)
        })
        .await;
        self.servers.start(at).await
    }

    /// Ends the tellers, waits until recovery has nothing to do, and compares the databases.
    async fn settle(&mut self) {
        let (status, log) = self.tellers.take().unwrap().terminate(PATIENCE).await;
        assert!(status.success(), "the tellers end: {status}");
        self.journal.read(&log);
        eventually(PATIENCE, "nothing is under way", async || self.books.is_quiet().await).await;
        self.journal.balance(&self.books).await;
    }
}

/// Rounds of so many transfers that commit, with so many kills of each kind.
async fn walk(name: &str, second: PrivateServer, rounds: usize, transfers: usize, kills: usize) {
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| barid::clock::now().timestamp().unsigned_abs() / 86_400);
    println!("{name}: BARID_TEST_SEED={seed}");
    let servers = Servers::ready(PrivateServer::postgres("").await, second).await;
    let books = Books::open(&servers.urls, barid::distributed::Settings::default()).await.unwrap();
    let (dice, journal) = (Dice::new(seed), Journal::default());
    let mut walk = Walk {
        seed,
        dice,
        servers,
        books,
        journal,
        faults: Vec::new(),
        tellers: None,
        recoveries: Vec::new(),
    };
    walk.recover().await;
    for round in 1..=rounds {
        walk.open();
        let mut left: Vec<Victim> = VICTIMS.repeat(kills);
        while !left.is_empty() {
            let at = walk.dice.below(left.len() as u64);
            let victim = left.swap_remove(usize::try_from(at).unwrap());
            walk.strike(victim).await;
        }
        let known = walk.journal.committed();
        walk.ended((round * transfers).saturating_sub(known), Some(End::Committed)).await;
        walk.settle().await;
        println!("{name}, round {round}: {}", walk.journal);
    }
    for recovery in walk.recoveries {
        walk.journal.alerts(&recovery.kill().await);
    }
    walk.journal.assert(&walk.faults, &format!("{name}, BARID_TEST_SEED={seed}"), rounds * transfers);
    for victim in VICTIMS {
        let times = walk.faults.iter().filter(|fault| fault.what == format!("{victim:?}")).count();
        assert_eq!(times, rounds * kills, "{victim:?} was killed");
    }
}

/// Rounds, transfers of each, kills of each kind in each.
fn size() -> (usize, usize, usize) {
    if servers::long() { (10, 1_000, 2) } else { (1, 200, 1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_postgresql_and_postgresql() {
    let (rounds, transfers, kills) = size();
    walk("PostgreSQL + PostgreSQL", PrivateServer::postgres("").await, rounds, transfers, kills).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_postgresql_and_mariadb() {
    let (rounds, transfers, kills) = size();
    walk("PostgreSQL + MariaDB", PrivateServer::mariadb("").await, rounds, transfers, kills).await;
}
