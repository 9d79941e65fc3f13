//! The same work without Barid: sqlx, five statements, prepared and bound, the same three rows.

use std::sync::Arc;

use anyhow::ensure;
use barid::clock;
use serde::Serialize;
use sqlx::{Executor, MySqlConnection, PgConnection, Pool};
use uuid::Uuid;

use super::{OrderPlaced, PlaceOrder, Queue, subject::ByHand};

/// Each worker keeps one connection: five round trips a message.
pub(super) async fn held<DB: ByHand>(pool: Pool<DB>, queue: Arc<Queue>) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    while let Some(work) = queue.take() {
        DB::by_hand(&mut connection, work.id, &work.delivery.body).await?;
    }
    Ok(())
}

/// Each message takes a connection from the pool, which tests it on the way out and on the way back.
pub(super) async fn pooled<DB: ByHand>(pool: Pool<DB>, queue: Arc<Queue>) -> anyhow::Result<()> {
    while let Some(work) = queue.take() {
        let mut connection = pool.acquire().await?;
        DB::by_hand(&mut connection, work.id, &work.delivery.body).await?;
    }
    Ok(())
}

/// The headers that ours writes.
#[derive(Serialize)]
struct Headers<'a> {
    #[serde(rename = "barid-causation-id")]
    causation_id: Uuid,
    #[serde(rename = "barid-correlation-id")]
    correlation_id: Uuid,
    #[serde(rename = "barid-sent-at")]
    sent_at: String,
    #[serde(rename = "barid-source")]
    source: &'a str,
    #[serde(rename = "content-type")]
    content_type: &'a str,
}

/// What the event's outbox row holds beyond constants.
struct Row {
    key: String,
    payload: Vec<u8>,
    headers: String,
}

fn row(cause: Uuid, command: &PlaceOrder) -> anyhow::Result<Row> {
    let event = OrderPlaced { order: command.order, customer: command.customer, note: command.note.clone() };
    let headers = Headers {
        causation_id: cause,
        correlation_id: cause,
        sent_at: clock::now_text(),
        source: "order-desk",
        content_type: "application/json",
    };
    Ok(Row {
        key: command.customer.to_string(),
        payload: serde_json::to_vec(&event)?,
        headers: serde_json::to_string(&headers)?,
    })
}

pub(super) async fn postgres(db: &mut PgConnection, id: Uuid, body: &[u8]) -> anyhow::Result<()> {
    let command: PlaceOrder = serde_json::from_slice(body)?;
    db.execute("BEGIN").await?;
    let recorded =
        sqlx::query("INSERT INTO idempotency (message_id, scope) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(id)
            .bind("order-desk")
            .execute(&mut *db)
            .await?;
    ensure!(recorded.rows_affected() == 1, "{id} was handled before");
    sqlx::query("INSERT INTO orders (id, customer, note) VALUES ($1, $2, $3)")
        .bind(command.order)
        .bind(command.customer)
        .bind(&command.note)
        .execute(&mut *db)
        .await?;
    let row = row(id, &command)?;
    sqlx::query(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers) \
         VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)",
    )
    .bind(Uuid::now_v7())
    .bind("topic:orders")
    .bind("orders")
    .bind(row.key)
    .bind("orders.placed")
    .bind(row.payload)
    .bind(row.headers)
    .execute(&mut *db)
    .await?;
    db.execute("COMMIT").await?;
    Ok(())
}

pub(super) async fn mariadb(db: &mut MySqlConnection, id: Uuid, body: &[u8]) -> anyhow::Result<()> {
    let command: PlaceOrder = serde_json::from_slice(body)?;
    db.execute("BEGIN").await?;
    sqlx::query("INSERT INTO idempotency (message_id, scope) VALUES (?, ?)")
        .bind(id)
        .bind("order-desk")
        .execute(&mut *db)
        .await?;
    sqlx::query("INSERT INTO orders (id, customer, note) VALUES (?, ?, ?)")
        .bind(command.order)
        .bind(command.customer)
        .bind(&command.note)
        .execute(&mut *db)
        .await?;
    let row = row(id, &command)?;
    sqlx::query(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(Uuid::now_v7())
    .bind("topic:orders")
    .bind("orders")
    .bind(row.key)
    .bind("orders.placed")
    .bind(row.payload)
    .bind(row.headers)
    .execute(&mut *db)
    .await?;
    db.execute("COMMIT").await?;
    Ok(())
}
