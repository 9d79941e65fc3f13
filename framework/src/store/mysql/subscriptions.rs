//! The statements of the subscription store on MariaDB and MySQL.

use sqlx::MySqlPool;

pub(crate) async fn subscribers(
    pool: &MySqlPool,
    topic: &str,
    queues_max: i64,
) -> Result<Vec<String>, sqlx::Error> {
    let subscribers = "SELECT queue FROM subscription WHERE topic = ? ORDER BY queue LIMIT ?";
    sqlx::query_scalar(subscribers).bind(topic).bind(queues_max).fetch_all(pool).await
}

pub(crate) async fn subscribe(pool: &MySqlPool, topic: &str, queue: &str) -> Result<(), sqlx::Error> {
    let subscribe =
        "INSERT INTO subscription (topic, queue) VALUES (?, ?) ON DUPLICATE KEY UPDATE queue = VALUES(queue)";
    sqlx::query(subscribe).bind(topic).bind(queue).execute(pool).await.map(drop)
}

pub(crate) async fn unsubscribe(pool: &MySqlPool, topic: &str, queue: &str) -> Result<(), sqlx::Error> {
    let unsubscribe = "DELETE FROM subscription WHERE topic = ? AND queue = ?";
    sqlx::query(unsubscribe).bind(topic).bind(queue).execute(pool).await.map(drop)
}
