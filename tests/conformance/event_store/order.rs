//! The global order: a reader that goes on behind the last position it has seen misses nothing, while a reader of the numbers that
//! the inserts got does.

use std::{collections::BTreeMap, sync::Arc};

use barid::{
    event_store::{EventStore, Expected, RecordedEvent, Slice},
    store::{AnyPool, Backend, schema},
};
use uuid::Uuid;

use super::{Fresh, counted, databases::Kind, on_each, stream, units};

on_each!(readers_miss_nothing_while_many_append);

/// A reader of the kind that loses: behind the last number that it has seen.
async fn naive(pool: &AnyPool, last: &mut i64) -> usize {
    const BEHIND: &str = "SELECT seq FROM event_log ORDER BY seq";
    let all: Vec<i64> = match pool {
        AnyPool::Postgres(pool) => sqlx::query_scalar(BEHIND).fetch_all(pool).await.unwrap(),
        AnyPool::MySql(pool) => sqlx::query_scalar(BEHIND).fetch_all(pool).await.unwrap(),
        _ => unreachable!("two databases have several writers"),
    };
    let new = all.iter().filter(|seq| **seq > *last).count();
    *last = all.last().copied().unwrap_or(*last).max(*last);
    new
}

/// Follows the global order.
struct Reader<DB: Backend> {
    store: EventStore<DB>,
    last: u64,
    seen: Vec<RecordedEvent>,
}

impl<DB: Backend> Reader<DB> {
    fn new(store: EventStore<DB>) -> Self {
        Self { store, last: 0, seen: Vec::new() }
    }

    async fn look(&mut self) {
        let page = self.store.read_all(Slice::forward().after(self.last).max(7)).await.unwrap();
        for event in page.events {
            assert_eq!(event.position, Some(self.last + 1), "no gap, no jump");
            self.last += 1;
            self.seen.push(event);
        }
    }
}

/// SQLite has one writer: nothing commits there while another transaction has appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_commit_with_a_lower_number_is_not_missed() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        println!("{kind:?}");
        match pool.clone() {
            AnyPool::Postgres(on) => not_missed(EventStore::new(on.clone()), on, &pool).await,
            AnyPool::MySql(on) => not_missed(EventStore::new(on.clone()), on, &pool).await,
            _ => unreachable!("two databases have several writers"),
        }
        pool.close().await;
    }
}

async fn not_missed<DB: Backend>(store: EventStore<DB>, pool: sqlx::Pool<DB>, any: &AnyPool) {
    let (bus, gate) = units::bus(pool);
    let slow = units::Append { stream: "slow".to_owned(), n: 1, waits: true, fails: false };
    let slow = tokio::spawn(async move { bus.handle(units::delivery(Uuid::now_v7(), &slow)).await });
    gate.appended.acquire().await.unwrap().forget();
    // The first has its number and has not committed. The second gets a higher one, and commits.
    store.append(&stream("quick"), Expected::Any, [counted(2)]).await.unwrap();
    let (mut last, mut reader) = (0, Reader::new(store));
    let mut naive_saw = naive(any, &mut last).await;
    reader.look().await;
    assert_eq!((naive_saw, reader.seen.len()), (1, 1), "nobody waits for the open transaction");
    gate.may_end.add_permits(1);
    slow.await.unwrap().unwrap();
    naive_saw += naive(any, &mut last).await;
    reader.look().await;
    assert_eq!(naive_saw, 1, "the naive reader loses the event: this is the trap");
    let streams: Vec<_> = reader.seen.iter().map(|event| event.stream.as_str()).collect();
    assert_eq!(streams, ["quick", "slow"]);
}

mod suite {
    use super::*;

    /// Appenders with transactions of all lengths, some of which fail, and four readers.
    pub(super) async fn readers_miss_nothing_while_many_append<DB: Backend>(
        store: EventStore<DB>,
        pool: sqlx::Pool<DB>,
    ) {
        const APPENDERS: u64 = 8;
        let each: u64 = if barid_tests::servers::long() { 500 } else { 25 };
        let (bus, gate) = units::bus(pool);
        // Whoever waits is let on by whoever comes next.
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|who| {
                let (bus, gate, store) = (bus.clone(), Arc::clone(&gate), store.clone());
                tokio::spawn(async move {
                    for n in 0..each {
                        if n % 3 == 0 {
                            store
                                .append(&stream(&format!("s{}", n % 5)), Expected::Any, [counted(n)])
                                .await
                                .unwrap();
                            continue;
                        }
                        gate.may_end.add_permits(1);
                        let (waits, fails) = (DB::DISPLAY != "SQLite" && n % 2 == 0, n % 4 == 1);
                        let append = units::Append { stream: format!("u{who}"), n, waits, fails };
                        let handled = bus.handle(units::delivery(Uuid::now_v7(), &append)).await;
                        assert_eq!(handled.is_err(), fails, "{handled:?}");
                    }
                })
            })
            .collect();
        let stop = tokio_util::sync::CancellationToken::new();
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (stop, mut reader) = (stop.clone(), Reader::new(store.clone()));
                tokio::spawn(async move {
                    while !stop.is_cancelled() {
                        reader.look().await;
                    }
                    let mut before = u64::MAX;
                    while before != reader.last {
                        before = reader.last;
                        reader.look().await;
                    }
                    reader.seen
                })
            })
            .collect();
        for appender in appenders {
            appender.await.unwrap();
        }
        stop.cancel();
        let written: u64 = {
            let mut written = 0;
            let who = (0..APPENDERS).map(|who| format!("u{who}"));
            for name in who.chain((0..5).map(|n| format!("s{n}"))) {
                written += store.version(&stream(&name)).await.unwrap();
            }
            written
        };
        assert!(written > APPENDERS * each / 2, "{written}");
        for reader in readers {
            let seen = reader.await.unwrap();
            assert_eq!(seen.len() as u64, written, "{}", DB::DISPLAY);
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for event in &seen {
                let before = last.insert(&event.stream, event.version).unwrap_or(0);
                assert_eq!(event.version, before + 1, "{} keeps its order", event.stream);
            }
        }
    }
}
