//! Without an outbox messages leave after the unit of work committed, and never before; with one they are rows in the order in
//! which they were sent.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Context, Destination, Headers, Message, Outgoing, Result, SqlOutbox, SqlUnitOfWork, State, Transport,
    headers,
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use sqlx::Sqlite;
use uuid::Uuid;

use crate::world::{Place, Placed, World};

on_both!(
    a_transport_error_leaves_the_unit_of_work_committed,
    nothing_is_sent_when_the_commit_fails,
    several_sends_are_rows_in_their_order,
);

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("nack");
        Ok(())
    }
}

fn delivery(told: &Told, id: i64) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, Place::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&Place { id }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(told.clone()),
    }
}

/// Writes a row, sends, and makes the commit fail for negative numbers: the foreign key is looked at by COMMIT.
async fn place(command: Place, cx: Context, to: State<Destination>) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(command.id).execute(&mut *db).await?;
    if command.id < 0 {
        sqlx::query("INSERT INTO lines (order_id) VALUES (12345)").execute(&mut *db).await?;
    }
    cx.publish(Outgoing::new(Placed { id: command.id }).to((*to.0).clone()))
}

async fn orders<T: Transport + Clone>(world: &World<T>) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&world.pool()).await.unwrap()
}

async fn tables<T: Transport + Clone>(world: &World<T>) {
    let tables = "CREATE TABLE orders (id INTEGER PRIMARY KEY);
        CREATE TABLE lines (order_id INTEGER REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)";
    sqlx::raw_sql(tables).execute(&world.pool()).await.unwrap();
}

async fn a_transport_error_leaves_the_unit_of_work_committed<T: Transport + Clone>(world: &World<T>) {
    tables(world).await;
    for (n, with_transaction) in [false, true].into_iter().enumerate() {
        let unit = SqlUnitOfWork::new(world.pool()).commit_with_transaction(with_transaction);
        let bus = world.bus("orders").unit_of_work(unit).handler(place).state(world.queue("nobody"));
        let (bus, told) = (bus.build().unwrap(), Told::default());
        let error = bus.handle(delivery(&told, i64::try_from(n).unwrap())).await.unwrap_err().to_string();
        assert!(error.contains("cannot be delivered") && error.contains("nobody"), "{error}");
        // Sent before the commit, the error would have rolled it back.
        assert_eq!(orders(world).await, i64::try_from(n).unwrap() + 1, "{with_transaction}");
        assert_eq!(*told.0.lock().unwrap(), ["nack"]);
    }
}

async fn nothing_is_sent_when_the_commit_fails<T: Transport + Clone>(world: &World<T>) {
    tables(world).await;
    let to = world.declare("events").await;
    for with_transaction in [false, true] {
        let unit = SqlUnitOfWork::new(world.pool()).commit_with_transaction(with_transaction);
        let bus = world.bus("orders").unit_of_work(unit).handler(place).state(to.clone()).build().unwrap();
        let told = Told::default();
        let error = bus.handle(delivery(&told, -1)).await.unwrap_err().to_string();
        assert!(error.contains("COMMIT was refused"), "{error}");
        assert_eq!((orders(world).await, told.0.lock().unwrap().join(" ")), (0, "nack".to_owned()));
        // The queue's first message is the one of a commit that succeeded.
        bus.handle(delivery(&told, 5)).await.unwrap();
        assert_eq!(&world.take("events").await.1[..], br#"{"id":5}"#);
        sqlx::raw_sql("DELETE FROM orders").execute(&world.pool()).await.unwrap();
    }
}

async fn send_in_order(_: Place, cx: Context, to: State<Destination>) -> Result<()> {
    for id in 0..50 {
        cx.publish(Outgoing::new(Placed { id: 2 * id }))?;
        cx.send(Outgoing::new(Placed { id: 2 * id + 1 }).to((*to.0).clone()))?;
    }
    Ok(())
}

async fn several_sends_are_rows_in_their_order<T: Transport + Clone>(world: &World<T>) {
    let unit = SqlUnitOfWork::new(world.pool()).commit_with_transaction(true);
    let bus = world.bus("orders").unit_of_work(unit).outbox(SqlOutbox::new()).handler(send_in_order);
    let (bus, told) = (bus.state(world.queue("nobody")).build().unwrap(), Told::default());
    bus.handle(delivery(&told, 0)).await.unwrap();
    let rows: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT destination, payload FROM outbox ORDER BY seq")
        .fetch_all(&world.pool())
        .await
        .unwrap();
    let (topic, queue) = (format!("topic:{}", world.name("orders")), world.queue("nobody").to_string());
    assert_eq!(rows.len(), 100);
    for (n, (destination, payload)) in rows.into_iter().enumerate() {
        assert_eq!(destination, if n % 2 == 0 { topic.as_str() } else { queue.as_str() });
        assert_eq!(payload, format!(r#"{{"id":{n}}}"#).into_bytes());
    }
}
