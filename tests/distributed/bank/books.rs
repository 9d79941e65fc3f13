//! What the tellers said, what the databases have, and the servers that they are on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use barid::store::AnyPool;
use barid_tests::{
    PrivateServer,
    ledger::Fault,
    sql,
    walk::{ACCOUNTS, BALANCE, Books, End},
};
use url::Url;

/// What tellers and recovery said, and what was found when everything was quiet.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    began: BTreeSet<i64>,
    told: BTreeMap<i64, End>,
    alerts: Vec<String>,
    committed: usize,
    /// In neither database.
    absent: usize,
    /// Of those whose end nobody was told: in both databases.
    found: usize,
}

impl Journal {
    /// Takes over what tellers said that have ended. Returns how many transfers they did not finish.
    pub(crate) fn read(&mut self, log: &[String]) -> usize {
        self.alerts(log);
        let began = log.iter().filter_map(|line| line.strip_prefix("began ")?.parse::<i64>().ok());
        let before = self.began.len();
        self.began.extend(began);
        let told: BTreeMap<i64, End> = log.iter().filter_map(|line| Self::end(line)).collect();
        let unfinished = self.began.len() - before - told.len();
        self.told.extend(told);
        unfinished
    }

    /// Takes over what somebody wanted a human to know.
    pub(crate) fn alerts(&mut self, log: &[String]) {
        self.alerts.extend(log.iter().filter(|line| line.starts_with("alert ")).cloned());
    }

    /// What a line says about the end of a transfer.
    pub(crate) fn end(line: &str) -> Option<(i64, End)> {
        let mut words = line.strip_prefix("ended ")?.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }

    /// The first number that was not used.
    pub(crate) fn next(&self) -> i64 {
        self.began.last().map_or(1, |last| last + 1)
    }

    /// How many transfers are in both databases.
    pub(crate) fn committed(&self) -> usize {
        self.committed
    }

    /// Compares the databases with each other, and with what was said. Nothing may be under way.
    pub(crate) async fn balance(&mut self, books: &Books) {
        let [first, second] = books.transfers().await.unwrap();
        assert_eq!(first, second, "a transfer is in one database and not in the other");
        let outbox = "SELECT CAST(aggregateid AS bigint), count(*) FROM outbox GROUP BY 1";
        let outbox = sql::pairs(&books.pools[0], outbox).await.unwrap();
        assert_eq!(outbox, first.keys().map(|number| (*number, 1)).collect(), "a row in the outbox for each");
        let everything = 2 * ACCOUNTS * BALANCE;
        assert_eq!(books.sum().await.unwrap(), everything, "the sum of all accounts");
        let there = "SELECT id, balance FROM account";
        let there: i64 = sql::pairs(&books.pools[0], there).await.unwrap().values().sum();
        let moved: i64 = first.values().sum();
        assert_eq!(there, everything / 2 - moved, "each transfer moved its amount once");
        for (number, end) in &self.told {
            match end {
                End::Committed => assert!(first.contains_key(number), "{number} was committed, and is lost"),
                End::Aborted => {
                    assert!(!first.contains_key(number), "{number} was rolled back, and is there")
                }
                End::InDoubt => {}
                End::Mixed => panic!("{number} has a mixed outcome"),
            }
        }
        assert!(first.keys().all(|number| self.began.contains(number)), "a transfer that nobody made");
        let count = async |what: &str| sql::number(&books.pools[0], what).await.unwrap();
        let odd = "SELECT count(*) FROM dtx_transaction WHERE status NOT IN('committed','aborted')";
        assert_eq!(count(odd).await, 0, "no transaction has a mixed outcome");
        let decided = count("SELECT count(*) FROM dtx_transaction WHERE decision='commit'").await;
        assert_eq!(usize::try_from(decided).unwrap(), first.len(), "what was decided is what is there");
        self.committed = first.len();
        self.absent = self.began.len() - first.len();
        let told = |number: &&i64| matches!(self.told.get(*number), Some(End::Committed));
        self.found = first.keys().filter(|number| !told(number)).count();
    }

    fn with(&self, end: &End) -> usize {
        self.told.values().filter(|told| *told == end).count()
    }

    /// That the walk has shown something.
    pub(crate) fn assert(&self, faults: &[Fault], name: &str, committed: usize) {
        for fault in faults {
            println!("fault: {}: {}", fault.what, fault.evidence);
            assert!(!fault.evidence.trim().is_empty(), "{name}: nothing shows that {} happened", fault.what);
        }
        println!("{name}: {self}");
        assert!(self.committed >= committed, "{name}: too few transfers: {self}");
        assert_eq!((self.with(&End::Mixed), &self.alerts), (0, &Vec::new()), "{name}: a mixed outcome");
        assert!(self.with(&End::Aborted) > 0, "{name}: nothing was rolled back: {self}");
        assert!(self.began.len() > self.told.len(), "{name}: nobody was killed in a transfer: {self}");
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, told, alerts) = (self.began.len(), self.told.len(), self.alerts.len());
        write!(
            f,
            "ledger: transfers={began} in_both={} in_neither={} in_one=0; tellers said committed={} rolled_back={} in_doubt={} \
             mixed={}, were killed in {}; found by recovery or lost answers={} alerts={alerts}",
            self.committed,
            self.absent,
            self.with(&End::Committed),
            self.with(&End::Aborted),
            self.with(&End::InDoubt),
            self.with(&End::Mixed),
            began - told,
            self.found,
        )
    }
}

/// The servers of the two databases.
pub(crate) struct Servers {
    pub(crate) all: [PrivateServer; 2],
    pub(crate) urls: [String; 2],
}

impl Servers {
    /// With a database on each, which has the accounts.
    pub(crate) async fn ready(first: PrivateServer, second: PrivateServer) -> Self {
        let all = [first, second];
        let mut urls = [String::new(), String::new()];
        for (server, url) in all.iter().zip(&mut urls) {
            let pool = AnyPool::connect(&server.url, 1).await.unwrap();
            sql::execute(&pool, "CREATE DATABASE bank").await.unwrap();
            pool.close().await;
            let mut own = Url::parse(&server.url).unwrap();
            own.set_path("bank");
            *url = own.into();
            Books::create(url).await.unwrap();
        }
        Self { all, urls }
    }

    /// Starts one that was stopped. Returns the line of its log that says how it had ended.
    pub(crate) async fn start(&self, at: usize) -> String {
        let server = &self.all[at];
        let before = server.log().len();
        server.start().await;
        let log = server.log();
        // The first is PostgreSQL's, the second MariaDB's.
        let says = ["was not properly shut down", "Starting crash recovery"];
        let line = log[before..].lines().find(|line| says.iter().any(|text| line.contains(text)));
        let line = line.unwrap_or_else(|| panic!("it was no crash:\n{}", &log[before..]));
        line.trim().to_owned()
    }
}
