//! The three readers that are never to be built, each as its friends would build it.

use std::time::Duration;

use barid_tests::eventually::eventually;
use futures::future::join_all;
use sqlx::{Executor, PgConnection, PgPool, Row, postgres::PgRow};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    SETTLE,
    ledger::{Message, Seen},
};

const PAUSE: Duration = Duration::from_millis(2);

/// Remembers the last `seq` and asks for what is greater.
pub(crate) fn greater_than_last(pool: PgPool, seen: Seen, done: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = 0_i64;
        loop {
            // Asked before the read: when it was over by then, an empty read is the last one.
            let over = done.is_cancelled();
            let read =
                "SELECT id, aggregateid, payload, seq FROM outbox WHERE seq > $1 ORDER BY seq LIMIT 100";
            let rows = sqlx::query(read).bind(last).fetch_all(&pool).await.unwrap();
            for row in &rows {
                seen.push(message(row));
                last = row.get(3);
            }
            if rows.is_empty() && over {
                return;
            }
            sleep(PAUSE).await;
        }
    })
}

/// Waits until every transaction with a smaller id has ended, and reads in the order of the ids.
pub(crate) fn order_by_xid(pool: PgPool, seen: Seen, done: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = ("0".to_owned(), 0_i64);
        loop {
            let over = done.is_cancelled();
            let read = "SELECT id, aggregateid, payload, seq, xid::text FROM outbox \
                WHERE (xid, seq) > ($1::text::xid8, $2) AND xid < pg_snapshot_xmin(pg_current_snapshot()) \
                ORDER BY xid, seq LIMIT 100";
            let rows = sqlx::query(read).bind(&last.0).bind(last.1).fetch_all(&pool).await.unwrap();
            for row in &rows {
                seen.push(message(row));
                last = (row.get(4), row.get(3));
            }
            if rows.is_empty() && over && caught_up(&pool, seen.len()).await {
                return;
            }
            sleep(PAUSE).await;
        }
    })
}

/// Whether everything was delivered: any transaction of the whole server holds this reader up.
async fn caught_up(pool: &PgPool, delivered: usize) -> bool {
    let committed: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger").fetch_one(pool).await.unwrap();
    delivered >= usize::try_from(committed).unwrap()
}

/// Four workers, each with its own batch.
pub(crate) fn skip_locked(pool: PgPool, seen: Seen, done: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let workers = (0..4).map(|_| async {
            let mut db = pool.acquire().await.unwrap();
            while !(batch(&mut db, &seen).await == 0 && done.is_cancelled()) {
                sleep(PAUSE).await;
            }
        });
        join_all(workers).await;
    })
}

/// Claims a row, publishes it, deletes it.
async fn batch(db: &mut PgConnection, seen: &Seen) -> usize {
    db.execute("BEGIN").await.unwrap();
    let claim =
        "SELECT id, aggregateid, payload, seq FROM outbox ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED";
    let rows = sqlx::query(claim).fetch_all(&mut *db).await.unwrap();
    for row in &rows {
        let message = message(row);
        if message.slow {
            // A publisher may take its time; here it takes as long as another worker needs for the next row of the key.
            let (key, next) = (message.key, message.version + 1);
            eventually(SETTLE, "the next row of the key is delivered", async || seen.has(key, next)).await;
        }
        seen.push(message);
        let seq: i64 = row.get(3);
        sqlx::query("DELETE FROM outbox WHERE seq = $1").bind(seq).execute(&mut *db).await.unwrap();
    }
    db.execute("COMMIT").await.unwrap();
    rows.len()
}

fn message(row: &PgRow) -> Message {
    Message::parse(row.get(0), row.get(1), row.get(2))
}
