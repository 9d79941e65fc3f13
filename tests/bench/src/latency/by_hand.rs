//! The loop that a careful person writes by hand when rows shall leave at once: LISTEN, read the head, publish, delete.

use std::collections::HashSet;

use anyhow::Context as _;
use futures::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use sqlx::{Connection, PgConnection, postgres::PgListener};
use tokio::sync::mpsc;

use super::Times;
use crate::bare::{self, Publish};

/// Runs the loop beside the writers, until every event they wrote is confirmed.
pub(super) async fn beside<P: Publish<Confirm: Unpin>>(
    url: &str,
    client: P,
    times: &Times,
    writing: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("outbox").await?;
    let relaying = relay(url, client, times, listener);
    let written = async {
        writing.await?;
        times.all_confirmed().await
    };
    tokio::select! {
        ended = relaying => ended.and_then(|()| anyhow::bail!("the loop has ended")),
        written = written => written,
    }
}

async fn relay<P: Publish<Confirm: Unpin>>(
    url: &str,
    mut client: P,
    times: &Times,
    mut listener: PgListener,
) -> anyhow::Result<()> {
    let mut reader = PgConnection::connect(url).await?;
    // Room for whatever is in flight, so that confirms never wait for a DELETE.
    let (confirmed, mut to_delete) = mpsc::channel::<i64>(100_000);
    let (deleted, mut gone) = mpsc::channel::<Vec<i64>>(1_000);
    let mut writer = PgConnection::connect(url).await?;
    sqlx::query("SET synchronous_commit = off").execute(&mut writer).await?;
    let deleting = async move {
        let mut seqs = Vec::new();
        while to_delete.recv_many(&mut seqs, bare::BATCH_ROWS).await > 0 {
            let delete = sqlx::query("DELETE FROM outbox WHERE seq = ANY($1)").bind(&seqs);
            delete.execute(&mut writer).await?;
            deleted.send(std::mem::take(&mut seqs)).await?;
        }
        anyhow::Ok(())
    };
    let publishing = async move {
        let mut known = HashSet::new();
        let mut flying = FuturesUnordered::new();
        loop {
            tokio::select! {
                // All confirms that are there come before the next read, which is what takes time.
                biased;
                Some((seq, id, answer)) = flying.next(), if !flying.is_empty() => {
                    let answer: anyhow::Result<()> = answer;
                    answer?;
                    times.confirmed(id);
                    confirmed.send(seq).await?;
                }
                seqs = gone.recv() => {
                    for seq in seqs.context("deleting has ended")? {
                        known.remove(&seq);
                    }
                }
                heard = listener.recv() => {
                    heard?;
                    // One read for all that was heard of meanwhile.
                    while listener.next_buffered().is_some() {}
                    for row in bare::fetch_unknown(&mut reader, &known).await? {
                        known.insert(row.seq);
                        let (seq, id) = (row.seq, row.id);
                        flying.push(client.publish(&row)?.map(move |answer| (seq, id, answer)));
                    }
                }
            }
        }
        #[allow(unreachable_code)] // says what the loop would return
        anyhow::Ok(())
    };
    tokio::try_join!(publishing, deleting)?;
    Ok(())
}
