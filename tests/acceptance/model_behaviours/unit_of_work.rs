//! The unit of work around the handlers, hand-written and SQL.

use barid::{Context, Error, Memory, Result, SqlUnitOfWork, State};
use sqlx::{Executor, Sqlite};
use uuid::Uuid;

use crate::stage::{Journal, Place, bus, database, delivery, drafts};

async fn place(cmd: Place, cx: Context, journal: State<Journal>) -> Result<()> {
    journal.0.watch(&cx, None)?;
    journal.0.write("handler");
    if cmd.id < 0 { Err(Error::new("no")) } else { Ok(()) }
}

async fn journal_of(commit_with_transaction: bool, id: i64) -> Vec<String> {
    let (journal, message) = (Journal::default(), Uuid::now_v7());
    let unit = drafts(&journal).commit_with_transaction(commit_with_transaction);
    let bus =
        bus(&Memory::new()).await.handler(place).state(journal.clone()).unit_of_work(unit).build().unwrap();
    assert_eq!(bus.handle(delivery(message, id)).await.is_ok(), id > 0);
    let mut happened = journal.read();
    assert_eq!(happened.remove(0), format!("unit for {message}"), "the factory sees the message");
    happened
}

#[tokio::test]
async fn it_commits_after_the_handlers_or_with_the_transaction() {
    let early = ["handler", "unit commits", "unit closes", "commit", "ack", "close"];
    assert_eq!(journal_of(false, 1).await, early);
    let with = ["handler", "commit", "unit commits", "ack", "unit closes", "close"];
    assert_eq!(journal_of(true, 1).await, with);
}

#[tokio::test]
async fn it_rolls_back_and_closes_when_a_handler_fails() {
    let expected = ["handler", "unit rolls back", "rollback", "nack", "unit closes", "close"];
    for with_transaction in [false, true] {
        assert_eq!(journal_of(with_transaction, -1).await, expected, "{with_transaction}");
    }
}

#[tokio::test]
async fn business_rows_stay_or_go_with_the_handler() {
    async fn insert(cmd: Place, cx: Context) -> Result<()> {
        let mut db = cx.unit_of_work::<Sqlite>().await?;
        sqlx::query("INSERT INTO orders VALUES ($1)").bind(cmd.id).execute(&mut *db).await?;
        if cmd.id < 0 { Err(Error::new("no")) } else { Ok(()) }
    }
    for with_transaction in [false, true] {
        let database = database().await;
        database.pool.execute("CREATE TABLE orders (id INTEGER)").await.unwrap();
        let unit = SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(with_transaction);
        let bus = bus(&Memory::new()).await.handler(insert).unit_of_work(unit).build().unwrap();
        for (id, rows) in [(-1, 0), (1, 1)] {
            assert_eq!(bus.handle(delivery(Uuid::now_v7(), id)).await.is_ok(), id > 0);
            let found = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders");
            assert_eq!(found.fetch_one(&database.pool).await.unwrap(), rows, "{with_transaction} {id}");
        }
        database.drop_now().await;
    }
}
