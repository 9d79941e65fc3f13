//! Duplicates: recorded with the commit, skipped or marked.

use barid::{Context, DuplicatePolicy, Error, Memory, Result, SqlIdempotency, SqlUnitOfWork, State};
use barid_tests::TestDatabase;
use sqlx::Sqlite;
use uuid::Uuid;

use crate::stage::{Journal, Place, bus, database, delivery};

async fn place(cmd: Place, cx: Context, journal: State<Journal>) -> Result<()> {
    journal.0.write(if cx.is_duplicate() { "again" } else { "once" });
    if cmd.id < 0 { Err(Error::new("no")) } else { Ok(()) }
}

struct Run {
    database: TestDatabase<Sqlite>,
    bus: barid::Bus,
    journal: Journal,
}

impl Run {
    async fn with(policy: DuplicatePolicy) -> Self {
        let (database, journal) = (database().await, Journal::default());
        let unit = SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true);
        let bus = bus(&Memory::new()).await.handler(place).state(journal.clone()).unit_of_work(unit);
        let bus = bus.idempotency(SqlIdempotency::new().duplicates(policy)).build().unwrap();
        Self { database, bus, journal }
    }

    async fn records(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM idempotency");
        count.fetch_one(&self.database.pool).await.unwrap()
    }
}

#[tokio::test]
async fn a_message_is_recorded_with_its_commit_and_skipped_when_it_comes_again() {
    let run = Run::with(DuplicatePolicy::Skip).await;
    let message = Uuid::now_v7();
    for _ in 0..2 {
        run.bus.handle(delivery(message, 1)).await.unwrap();
        assert_eq!(run.records().await, 1);
    }
    assert_eq!(run.journal.read(), ["once"]);
    run.bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!((run.records().await, run.journal.read().len()), (2, 2), "another id is another message");
}

#[tokio::test]
async fn a_duplicate_that_is_to_be_handled_is_marked() {
    let run = Run::with(DuplicatePolicy::Invoke).await;
    let message = Uuid::now_v7();
    for _ in 0..2 {
        run.bus.handle(delivery(message, 1)).await.unwrap();
    }
    assert_eq!((run.journal.read(), run.records().await), (vec!["once".to_owned(), "again".to_owned()], 1));
}

/// The model keeps the mark of a message whose commit did not happen, which loses it. Ours goes with the rollback.
#[tokio::test]
async fn a_message_that_failed_leaves_no_record() {
    let run = Run::with(DuplicatePolicy::Skip).await;
    let message = Uuid::now_v7();
    run.bus.handle(delivery(message, -1)).await.unwrap_err();
    assert_eq!(run.records().await, 0);
    run.bus.handle(delivery(message, 1)).await.unwrap();
    assert_eq!((run.records().await, run.journal.read()), (1, vec!["once".to_owned(); 2]));
}
