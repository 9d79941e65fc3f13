//! A bus whose unit of work is distributed, in a process that is killed again and again: promises E and A.
//!
//! Each message has one effect in each of two databases, one outbox row and one idempotency record. Whatever the kills interrupt,
//! the next process completes, and SQL says in the end that every effect is there once, in both. 100 messages and 4 kills here;
//! 1,000 messages and 20 kills with `BARID_TEST_LONG=1`.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "bus/handlers.rs"]
mod handlers;

use std::{any::Any, os::unix::process::ExitStatusExt, time::Duration};

use barid::{
    Destination, Outgoing, Sender, SqlQueue, Transport,
    store::{AnyPool, schema},
    transport::Inbox,
};
use barid_tests::{
    Process, TestDatabase,
    dice::Dice,
    eventually, servers,
    spread::Spread,
    transfer::{number, run},
};
use tokio::process::Command;

const LONG: Duration = Duration::from_secs(300);
const SIGABRT: i32 = 6;
const QUEUE: &str = "spread";

/// Messages and kills.
fn counts() -> (i64, u32) {
    if servers::long() { (1_000, 20) } else { (100, 4) }
}

/// The two databases, the home first.
struct World {
    urls: [String; 2],
    pools: [AnyPool; 2],
    _databases: Vec<Box<dyn Any + Send + Sync>>,
}

impl World {
    async fn new(
        home: (String, Box<dyn Any + Send + Sync>),
        branch: (String, Box<dyn Any + Send + Sync>),
    ) -> Self {
        let urls = [home.0, branch.0];
        let mut pools = Vec::new();
        for url in &urls {
            let pool = AnyPool::connect(url, 4).await.unwrap();
            schema::apply(&pool).await.unwrap();
            run(&pool, "CREATE TABLE effect(n BIGINT NOT NULL)").await.unwrap();
            pools.push(pool);
        }
        Self { urls, pools: pools.try_into().unwrap(), _databases: vec![home.1, branch.1] }
    }

    /// Puts `messages` commands into the queue.
    async fn send(&self, messages: i64) {
        let queue = SqlQueue::new(self.pools[0].clone());
        queue.declare(&Inbox::new(QUEUE)).await.unwrap();
        let sender = Sender::connect(&queue, "test").await.unwrap();
        for n in 0..messages {
            let to = Destination::queue(QUEUE).unwrap();
            sender.send(Outgoing::new(Spread { n }).to(to)).await.unwrap();
        }
    }

    fn bus(&self) -> Command {
        let mut bus = Command::new(env!("CARGO_BIN_EXE_distributed-bus"));
        bus.arg(QUEUE).args(&self.urls);
        bus
    }

    async fn effects(&self) -> i64 {
        number(&self.pools[0], "SELECT count(*) FROM effect").await
    }

    /// Transactions that are not over.
    async fn open(&self) -> i64 {
        number(&self.pools[0], "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL").await
    }

    /// Branches that are prepared.
    async fn prepared(&self) -> i64 {
        match &self.pools[1] {
            AnyPool::Postgres(pool) => {
                let select = "SELECT count(*) FROM pg_prepared_xacts WHERE database=current_database()";
                sqlx::query_scalar(select).fetch_one(pool).await.unwrap()
            }
            // The list is the whole server's; those of this log bear its id.
            AnyPool::MySql(pool) => {
                let AnyPool::Postgres(home) = &self.pools[0] else { panic!("a PostgreSQL home") };
                let log: uuid::Uuid =
                    sqlx::query_scalar("SELECT id FROM dtx_coordinator").fetch_one(home).await.unwrap();
                let rows = sqlx::raw_sql("XA RECOVER").fetch_all(pool).await.unwrap();
                let data = |row: &sqlx::mysql::MySqlRow| {
                    use sqlx::Row;
                    row.try_get_unchecked::<Vec<u8>, _>(3).unwrap()
                };
                let ours = log.simple().to_string();
                let count =
                    rows.iter().filter(|row| String::from_utf8_lossy(&data(row)).contains(&ours)).count();
                i64::try_from(count).unwrap()
            }
            _ => panic!("a branch that can be prepared"),
        }
    }

    /// Everything once, and everywhere.
    async fn assert_promises(&self, messages: i64) {
        let [home, branch] = &self.pools;
        for (place, pool) in [("home", home), ("branch", branch)] {
            for (what, query) in [
                ("effects", "SELECT count(*) FROM effect"),
                ("messages with an effect", "SELECT count(DISTINCT n) FROM effect"),
            ] {
                assert_eq!(number(pool, query).await, messages, "{what} in {place}");
            }
        }
        for (what, query) in [
            ("outbox rows", "SELECT count(DISTINCT payload) FROM outbox"),
            ("outbox rows in all", "SELECT count(*) FROM outbox"),
            ("idempotency records", "SELECT count(*) FROM idempotency WHERE scope='spread'"),
        ] {
            assert_eq!(number(home, query).await, messages, "{what}");
        }
        for query in [
            "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL",
            "SELECT count(*) FROM dtx_transaction WHERE status NOT IN('committed','aborted')",
            "SELECT count(*) FROM queue_message",
        ] {
            assert_eq!(number(home, query).await, 0, "{query}");
        }
        assert_eq!(self.prepared().await, 0, "nothing stays prepared");
    }
}

/// Lets the process die at a point of a transaction; what it left is for the next one.
async fn dies_at(world: &World, point: &str) {
    let mut bus = Process::start(world.bus().env("BARID_CRASH_AT", point));
    let status = bus.ended(LONG).await;
    assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}\n{}", bus.log().join("\n"));
}

async fn killed_again_and_again(world: World, seed: u64) {
    let (messages, kills) = counts();
    world.send(messages).await;
    // The three that leave the most to do: all prepared and undecided, decided and nobody told, all told and not written down.
    for point in ["c6", "c9", "c12"] {
        dies_at(&world, point).await;
        assert!(world.prepared().await + world.open().await > 0, "{point}: something was left to recover");
    }
    let mut dice = Dice::new(seed);
    let mut left_prepared = 0;
    for kill in 0..kills {
        let bus = Process::start(&mut world.bus());
        // A share of what is left, and a moment more, so that no kill finds the queue empty and each another moment.
        let before = world.effects().await;
        let share = (messages - before) / i64::from(kills - kill + 1) + i64::try_from(dice.below(3)).unwrap();
        eventually(LONG, "the bus handles its share", || async {
            world.effects().await >= (before + share).min(messages)
        })
        .await;
        bus.kill().await;
        left_prepared += world.prepared().await;
    }
    let bus = Process::start(&mut world.bus());
    eventually(LONG, "everything is handled and over", || async {
        world.effects().await >= messages
            && world.open().await == 0
            && world.prepared().await == 0
            && number(&world.pools[0], "SELECT count(*) FROM queue_message").await == 0
    })
    .await;
    let (status, log) = bus.terminate(LONG).await;
    assert!(status.success(), "{status}\n{}", log.join("\n"));
    println!(
        "seed {seed}: {messages} messages, {kills} kills, {left_prepared} branches were left prepared by them"
    );
    world.assert_promises(messages).await;
}

fn seed() -> u64 {
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| barid::clock::now().timestamp().unsigned_abs() / 86_400)
}

async fn postgres() -> (String, Box<dyn Any + Send + Sync>) {
    let database = TestDatabase::postgres().await;
    (database.url.clone(), Box::new(database))
}

async fn mariadb() -> (String, Box<dyn Any + Send + Sync>) {
    let database = TestDatabase::mariadb().await;
    (database.url.clone(), Box::new(database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_postgres_databases_agree_whatever_is_killed() {
    killed_again_and_again(World::new(postgres().await, postgres().await).await, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_and_mariadb_agree_whatever_is_killed() {
    killed_again_and_again(World::new(postgres().await, mariadb().await).await, seed() + 1).await;
}
