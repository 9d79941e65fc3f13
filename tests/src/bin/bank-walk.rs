//! A teller of `barid_tests::walk`, or somebody who recovers what tellers left, in a process that can be killed.
//!
//! `bank-walk teller URL URL SEED FIRST WORKERS` makes the transfers from number FIRST on, some at once, until SIGTERM: a line
//! `began NUMBER` and a line `ended NUMBER END` for each. `bank-walk recover URL URL` recovers until it is killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use barid::distributed::{Recovered, Settings};
use barid_tests::walk::{Books, End};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Between two looks of recovery, and before a teller goes on after something failed: servers that are down are not stormed.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["teller", a, b, seed, first, workers] => {
            let books = Arc::new(open(a, b).await?);
            teller(books, seed.parse()?, first.parse()?, workers.parse()?).await
        }
        ["recover", a, b] => recover(&open(a, b).await?).await,
        _ => bail!("usage: bank-walk teller URL URL SEED FIRST WORKERS | recover URL URL"),
    }
}

/// With bounds of which a walk sees the ends: what is undecided is aborted soon, by whoever comes first.
async fn open(first: &str, second: &str) -> Result<Books> {
    let settings = Settings {
        deadline: Duration::from_secs(2),
        lease: Duration::from_secs(2),
        on_alert: Some(Arc::new(|gid, what| println!("alert {gid} {what}"))),
        ..Settings::default()
    };
    let books = Books::open(&[first.to_owned(), second.to_owned()], settings).await;
    books.map_err(anyhow::Error::msg).context("the books")
}

async fn teller(books: Arc<Books>, seed: u64, first: i64, workers: usize) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (next, stop) = (Arc::new(AtomicI64::new(first)), CancellationToken::new());
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (books, next, stop) = (Arc::clone(&books), Arc::clone(&next), stop.clone());
        all.spawn(async move {
            while !stop.is_cancelled() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                println!("began {number}");
                let (end, error) = books.transfer(seed, number).await;
                let why = error.map(|error| error.to_string().replace('\n', " ")).unwrap_or_default();
                println!("ended {number} {end} {why}");
                if end != End::Committed {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
    }
    terminate.recv().await;
    stop.cancel();
    while let Some(ended) = all.join_next().await {
        ended?;
    }
    books.coordinator.drain().await;
    Ok(())
}

async fn recover(books: &Books) -> Result<()> {
    println!("recovers");
    loop {
        match books.coordinator.recover_once().await {
            Ok(found) if found == Recovered::default() => {}
            Ok(found) => println!("{found:?}"),
            Err(error) => println!("nothing is known: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
