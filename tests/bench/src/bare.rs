//! The loop that a careful person writes by hand: read, publish and delete overlap, four batches at a time.
//!
//! The same client, window, batch and durability as the relay, and nothing else: no order per key, no parking, no retries,
//! no second attempt after an error, and a reader that would miss rows of transactions that commit late.

pub(crate) mod kafka;
pub(crate) mod rabbitmq;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use anyhow::{Context, ensure};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

/// Batches between being read and being deleted.
const DEPTH: usize = 4;
/// Rows that one SELECT reads and one DELETE deletes.
pub(crate) const BATCH_ROWS: usize = 1_000;

/// Everything that must travel.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) seq: i64,
    pub(crate) id: Uuid,
    pub(crate) destination: String,
    pub(crate) aggregatetype: String,
    pub(crate) aggregateid: Option<String>,
    pub(crate) kind: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: String,
}

impl Row {
    /// The headers that the relay writes: the row's own, and the columns.
    pub(crate) fn headers(&self) -> anyhow::Result<Vec<(String, String)>> {
        let own: std::collections::HashMap<String, String> = serde_json::from_str(&self.headers)?;
        let mut all: Vec<_> = own.into_iter().collect();
        all.push(("barid-id".to_owned(), self.id.to_string()));
        all.push(("barid-type".to_owned(), self.kind.clone()));
        all.push(("barid-aggregate".to_owned(), self.aggregatetype.clone()));
        all.extend(self.aggregateid.clone().map(|key| ("barid-key".to_owned(), key)));
        Ok(all)
    }

    /// The name of the queue or topic.
    pub(crate) fn name(&self) -> &str {
        self.destination.split_once(':').map_or("", |(_, name)| name)
    }
}

/// A client that publishes with confirms.
pub(crate) trait Publish {
    /// Resolves when the broker has the message for good.
    type Confirm: Future<Output = anyhow::Result<()>> + Send;

    /// Hands a message to the client without waiting for anything.
    fn publish(&mut self, row: &Row) -> anyhow::Result<Self::Confirm>;
}

/// Publishes rows, with at most `window` of them unconfirmed.
pub(crate) struct Windowed<P: Publish> {
    client: P,
    window: usize,
    pending: VecDeque<P::Confirm>,
}

impl<P: Publish<Confirm: Unpin>> Windowed<P> {
    pub(crate) fn new(client: P, window: usize) -> Self {
        Self { client, window, pending: VecDeque::with_capacity(window) }
    }

    /// Publishes, and calls `confirmed` for each row that is confirmed meanwhile, in order.
    async fn publish(&mut self, row: &Row, mut confirmed: impl FnMut()) -> anyhow::Result<()> {
        if self.pending.len() >= self.window {
            // Not one for one: confirms come in bunches, and so messages are given to the client in bunches too.
            while self.pending.len() > self.window - self.window.div_ceil(4) {
                self.oldest().await?;
                confirmed();
            }
        }
        self.pending.push_back(self.client.publish(row)?);
        Ok(())
    }

    async fn oldest(&mut self) -> anyhow::Result<()> {
        // Stays in the queue until it is answered, so that a dropped call loses nothing.
        if let Some(confirm) = self.pending.front_mut() {
            confirm.await?;
            self.pending.pop_front();
        }
        Ok(())
    }

    /// Publishes rows that are in memory, and waits for every confirm.
    pub(crate) async fn publish_all(&mut self, rows: &[Row]) -> anyhow::Result<()> {
        for row in rows {
            self.publish(row, || {}).await?;
        }
        while !self.pending.is_empty() {
            self.oldest().await?;
        }
        Ok(())
    }
}

/// Rows that were read together, and the right to have them in the works.
struct Batch {
    rows: Vec<Row>,
    permit: OwnedSemaphorePermit,
}

/// Rows of a batch that are not confirmed yet.
struct Waiting {
    left: usize,
    seqs: Vec<i64>,
    permit: OwnedSemaphorePermit,
}

/// Empties the outbox of `rows` rows.
pub(crate) async fn drain<P: Publish<Confirm: Unpin>>(
    reader: &mut PgConnection,
    writer: &mut PgConnection,
    publisher: &mut Windowed<P>,
    rows: usize,
) -> anyhow::Result<()> {
    let (batches, mut read) = mpsc::channel::<Batch>(DEPTH);
    let (finished, mut confirmed) = mpsc::channel::<(Vec<i64>, OwnedSemaphorePermit)>(DEPTH);
    let works = Arc::new(Semaphore::new(DEPTH));
    let reading = async move {
        let (mut after, mut count) = (i64::MIN, 0);
        while count < rows {
            let permit = Arc::clone(&works).acquire_owned().await?;
            let rows = fetch(reader, after).await?;
            after = rows.last().context("the backlog ended early")?.seq;
            count += rows.len();
            batches.send(Batch { rows, permit }).await?;
        }
        anyhow::Ok(())
    };
    let publishing = async move {
        let mut waiting = VecDeque::<Waiting>::new();
        loop {
            // With nothing to publish, confirms are what there is to wait for.
            let batch = tokio::select! {
                biased;
                batch = read.recv() => batch,
                oldest = publisher.oldest(), if !publisher.pending.is_empty() => {
                    oldest?;
                    confirm(&mut waiting, &finished).await?;
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            let seqs = batch.rows.iter().map(|row| row.seq).collect();
            waiting.push_back(Waiting { left: batch.rows.len(), seqs, permit: batch.permit });
            for row in &batch.rows {
                let mut count = 0;
                publisher.publish(row, || count += 1).await?;
                for _ in 0..count {
                    confirm(&mut waiting, &finished).await?;
                }
            }
        }
        while !publisher.pending.is_empty() {
            publisher.oldest().await?;
            confirm(&mut waiting, &finished).await?;
        }
        anyhow::Ok(())
    };
    let deleting = async move {
        let mut deleted = 0;
        while let Some((seqs, permit)) = confirmed.recv().await {
            let answer = sqlx::query("DELETE FROM outbox WHERE seq = ANY($1)")
                .bind(seqs)
                .execute(&mut *writer)
                .await?;
            deleted += answer.rows_affected();
            drop(permit);
        }
        ensure!(deleted == rows as u64, "{deleted} rows were deleted");
        anyhow::Ok(())
    };
    tokio::try_join!(reading, publishing, deleting)?;
    Ok(())
}

/// Books one confirm; the batch whose last it was goes to be deleted.
async fn confirm(
    waiting: &mut VecDeque<Waiting>,
    finished: &mpsc::Sender<(Vec<i64>, OwnedSemaphorePermit)>,
) -> anyhow::Result<()> {
    let batch = waiting.front_mut().context("a confirm without a row")?;
    batch.left -= 1;
    if batch.left == 0
        && let Some(batch) = waiting.pop_front()
    {
        finished.send((batch.seqs, batch.permit)).await?;
    }
    Ok(())
}

/// The next batch by position.
pub(crate) async fn fetch(reader: &mut PgConnection, after: i64) -> anyhow::Result<Vec<Row>> {
    let rows = sqlx::query(
        "SELECT seq, id, destination, aggregatetype, aggregateid, type, payload, headers::text FROM outbox \
         WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(after)
    .bind(i64::try_from(BATCH_ROWS)?)
    .fetch_all(reader)
    .await?;
    rows.iter().map(decode).collect()
}

/// What is at the head of the table and not among these positions.
pub(crate) async fn fetch_unknown(
    reader: &mut PgConnection,
    known: &HashSet<i64>,
) -> anyhow::Result<Vec<Row>> {
    let known: Vec<i64> = known.iter().copied().collect();
    let rows = sqlx::query(
        "SELECT seq, id, destination, aggregatetype, aggregateid, type, payload, headers::text FROM outbox \
         WHERE seq <> ALL ($1) ORDER BY seq LIMIT $2",
    )
    .bind(known)
    .bind(i64::try_from(BATCH_ROWS)?)
    .fetch_all(reader)
    .await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> anyhow::Result<Row> {
    Ok(Row {
        seq: row.try_get(0)?,
        id: row.try_get(1)?,
        destination: row.try_get(2)?,
        aggregatetype: row.try_get(3)?,
        aggregateid: row.try_get(4)?,
        kind: row.try_get(5)?,
        payload: row.try_get(6)?,
        headers: row.try_get(7)?,
    })
}
