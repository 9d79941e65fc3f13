//! The statements of the subscription store on PostgreSQL.

use sqlx::PgPool;

pub(crate) async fn subscribers(
    pool: &PgPool,
    topic: &str,
    queues_max: i64,
) -> Result<Vec<String>, sqlx::Error> {
    let subscribers = "SELECT queue FROM subscription WHERE topic = $1 ORDER BY queue LIMIT $2";
    sqlx::query_scalar(subscribers).bind(topic).bind(queues_max).fetch_all(pool).await
}

pub(crate) async fn subscribe(pool: &PgPool, topic: &str, queue: &str) -> Result<(), sqlx::Error> {
    let subscribe = "INSERT INTO subscription (topic, queue) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(subscribe).bind(topic).bind(queue).execute(pool).await.map(drop)
}

pub(crate) async fn unsubscribe(pool: &PgPool, topic: &str, queue: &str) -> Result<(), sqlx::Error> {
    let unsubscribe = "DELETE FROM subscription WHERE topic = $1 AND queue = $2";
    sqlx::query(unsubscribe).bind(topic).bind(queue).execute(pool).await.map(drop)
}
