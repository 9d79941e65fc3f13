//! MariaDB: what the unit of work prepares on a session may be lost at any time, and no message notices.

#![allow(clippy::unwrap_used)] // a test

use std::time::Duration;

use barid::{
    Bus, Context, Headers, Memory, Message, Result, SqlIdempotency, SqlOutbox, SqlUnitOfWork, headers,
    store::schema,
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::{Proxy, TestDatabase};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor, MySql, mysql::MySqlPoolOptions, raw_sql};
use uuid::Uuid;

/// A message during which the server forgets the closing statement too.
const FORGET: &str = "DO 2";

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    /// Runs in the unit of work.
    sql: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct OrderPlaced;

async fn place_order(command: PlaceOrder, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<MySql>().await?;
    (&mut *db).execute(raw_sql(AssertSqlSafe(command.sql))).await?;
    cx.publish(OrderPlaced)
}

struct Settled;

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> std::result::Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> std::result::Result<(), TransportError> {
        Ok(())
    }
}

fn delivery(id: Uuid, sql: &str) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, id.to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&PlaceOrder { sql: sql.to_owned() }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(Settled),
    }
}

#[tokio::test]
async fn a_session_that_loses_what_was_prepared_on_it_goes_on() {
    let database = TestDatabase::mariadb().await;
    schema::apply(&database.pool.clone().into()).await.unwrap();
    let (proxy, url) = Proxy::in_front_of(&database.url).await;
    // One session for all messages.
    let pool = MySqlPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let bus = Bus::builder("orders")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .handler(place_order)
        .build()
        .unwrap();
    // Deallocating what is not there is an error: each shows that the one before it has prepared again.
    let opening = "DEALLOCATE PREPARE barid_opening";
    let all = ["DO 1", opening, "DO 1", FORGET, "DO 1", opening, FORGET, FORGET, opening, "DO 1"];
    let mut last = Uuid::nil();
    for sql in all {
        if sql == FORGET {
            proxy.forget_prepared();
        }
        last = Uuid::now_v7();
        bus.handle(delivery(last, sql)).await.unwrap();
        assert_eq!(proxy.armed(), 0, "nothing was executed by its number");
    }
    bus.handle(delivery(last, "this is not SQL: a duplicate does not run")).await.unwrap();
    let count = async |table: &str| -> i64 {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(count).fetch_one(&database.pool).await.unwrap()
    };
    let messages = i64::try_from(all.len()).unwrap();
    assert_eq!((count("idempotency").await, count("outbox").await), (messages, messages));
    pool.close().await;
    database.drop_now().await;
}
