//! Things that are done once for a key: one suite on the three databases.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barid::{
    Error, UnitConnection,
    distributed::{IdempotentProcessor, ProcessError, ProcessKey, Processed},
    event_store::{EventStore, Expected, NewEvent, StreamName},
    store::{AnyPool, Backend, schema},
};
use databases::{Fresh, KINDS};
use tokio::sync::Semaphore;

#[allow(dead_code)] // other suites need more of it
mod databases;

/// What happened to the thing that is counted: the effects are events, in the transaction of the key.
fn thing() -> StreamName {
    StreamName::new("thing").unwrap()
}

async fn effect<DB: Backend>(store: &EventStore<DB>, db: &mut UnitConnection<DB>) -> barid::Result<u64> {
    Ok(store.append_in(db, &thing(), Expected::Any, [NewEvent::raw("done", "")]).await?.version)
}

macro_rules! on_each {
    ($test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            for kind in KINDS {
                let database = Fresh::new(kind).await;
                let pool = database.pool().await;
                schema::apply(&pool).await.unwrap();
                println!("{kind:?}");
                match pool.clone() {
                    AnyPool::Postgres(on) => {
                        suite::$test(IdempotentProcessor::new(on.clone()), EventStore::new(on)).await
                    }
                    AnyPool::MySql(on) => {
                        suite::$test(IdempotentProcessor::new(on.clone()), EventStore::new(on)).await
                    }
                    AnyPool::Sqlite(on) => {
                        suite::$test(IdempotentProcessor::new(on.clone()), EventStore::new(on)).await
                    }
                    _ => unreachable!("there are three databases"),
                }
                pool.close().await;
            }
        }
    };
}

on_each!(a_key_has_one_effect_and_one_result);
on_each!(what_failed_may_be_tried_again);
on_each!(concurrent_duplicates_are_in_progress);
on_each!(old_keys_are_removed);

mod suite {
    use super::*;

    pub(super) async fn a_key_has_one_effect_and_one_result<DB: Backend>(
        processor: IdempotentProcessor<DB>,
        store: EventStore<DB>,
    ) {
        processor.ready().await.unwrap();
        let once = async |key: &ProcessKey| {
            let store = store.clone();
            processor.run(key, move |db| Box::pin(async move { effect(&store, db).await })).await
        };
        let key = ProcessKey::new("k \u{1f600} '").request(b"pay 7");
        assert_eq!(once(&key).await.unwrap(), Processed::Now(1));
        for _ in 0..3 {
            assert_eq!(once(&key).await.unwrap(), Processed::Before(1));
        }
        assert_eq!(
            once(&ProcessKey::new("k \u{1f600} '")).await.unwrap().into_result(),
            1,
            "it does not say"
        );
        let other = once(&key.clone().request(b"pay 8")).await.unwrap_err();
        assert!(matches!(other, ProcessError::OtherRequest { .. }), "{other}");
        assert_eq!(once(&key.clone().scope("somebody else")).await.unwrap(), Processed::Now(2));
        assert_eq!(once(&ProcessKey::new("K")).await.unwrap(), Processed::Now(3));
        for bad in ["", "x ", "a\nb", &"x".repeat(201)] {
            let refused = once(&ProcessKey::new(bad)).await.unwrap_err();
            assert!(matches!(refused, ProcessError::Key { .. }), "{refused}");
        }
        let text = processor.run(&key, |_| Box::pin(async { Ok("text".to_owned()) })).await.unwrap_err();
        assert!(matches!(text, ProcessError::Result { .. }), "{text}");
        assert_eq!(store.version(&thing()).await.unwrap(), 3);
    }

    pub(super) async fn what_failed_may_be_tried_again<DB: Backend>(
        processor: IdempotentProcessor<DB>,
        store: EventStore<DB>,
    ) {
        let key = ProcessKey::new("k");
        let again = store.clone();
        let failed = processor.run(&key, move |db| {
            Box::pin(async move {
                effect(&again, db).await?;
                Err::<u64, _>(Error::new("on purpose"))
            })
        });
        let failed = failed.await.unwrap_err();
        assert!(
            matches!(failed, ProcessError::Failed { .. }) && failed.to_string().contains("on purpose"),
            "{failed}"
        );
        // Larger than what is kept.
        let again = store.clone();
        let large = processor.run(&key, move |db| {
            Box::pin(async move {
                effect(&again, db).await?;
                Ok("x".repeat(barid::limits::REPLY_BYTES_MAX))
            })
        });
        assert!(matches!(large.await.unwrap_err(), ProcessError::Result { .. }));
        // Dropped in the middle.
        let again = store.clone();
        let dropped = processor.run(&key, move |db| {
            Box::pin(async move {
                effect(&again, db).await?;
                std::future::pending::<barid::Result<u64>>().await
            })
        });
        assert!(tokio::time::timeout(Duration::from_millis(300), dropped).await.is_err());
        assert_eq!(store.version(&thing()).await.unwrap(), 0);
        let again = store.clone();
        let done = processor.run(&key, move |db| Box::pin(async move { effect(&again, db).await }));
        assert_eq!(done.await.unwrap(), Processed::Now(1));
    }

    pub(super) async fn concurrent_duplicates_are_in_progress<DB: Backend>(
        processor: IdempotentProcessor<DB>,
        store: EventStore<DB>,
    ) {
        let key = ProcessKey::new("busy");
        if DB::DISPLAY != "SQLite" {
            // On SQLite whoever comes second waits for the only writer.
            let (entered, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
            let first = {
                let (processor, store, key) = (processor.clone(), store.clone(), key.clone());
                let (entered, may_end) = (Arc::clone(&entered), Arc::clone(&may_end));
                tokio::spawn(async move {
                    let work = processor.run(&key, move |db| {
                        Box::pin(async move {
                            let version = effect(&store, db).await?;
                            entered.add_permits(1);
                            may_end.acquire().await?.forget();
                            Ok(version)
                        })
                    });
                    work.await
                })
            };
            entered.acquire().await.unwrap().forget();
            let second = processor.run(&key, |_| Box::pin(async { Ok(9_u64) })).await.unwrap_err();
            assert!(matches!(second, ProcessError::InProgress { .. }), "{second}");
            may_end.add_permits(1);
            assert_eq!(first.await.unwrap().unwrap(), Processed::Now(1));
        }
        // Sixteen at once, until each has an answer.
        let calls = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (processor, store, calls) = (processor.clone(), store.clone(), Arc::clone(&calls));
                tokio::spawn(async move {
                    loop {
                        let (store, calls) = (store.clone(), Arc::clone(&calls));
                        let key = ProcessKey::new("all");
                        let work = processor.run(&key, move |db| {
                            Box::pin(async move {
                                calls.fetch_add(1, Ordering::Relaxed);
                                effect(&store, db).await
                            })
                        });
                        match work.await {
                            Ok(done) => return done,
                            Err(ProcessError::InProgress { .. }) => tokio::task::yield_now().await,
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        let mut now = 0;
        let mut results = Vec::new();
        for task in tasks {
            let done = task.await.unwrap();
            now += u64::from(matches!(done, Processed::Now(_)));
            results.push(done.into_result());
        }
        assert_eq!((now, calls.load(Ordering::Relaxed)), (1, 1));
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
        assert_eq!(store.version(&thing()).await.unwrap(), results[0]);
    }

    pub(super) async fn old_keys_are_removed<DB: Backend>(
        processor: IdempotentProcessor<DB>,
        _: EventStore<DB>,
    ) {
        for n in 0..5_u64 {
            let key = ProcessKey::new(format!("old{n}")).kept_for(Duration::ZERO);
            processor.run(&key, |_| Box::pin(async move { Ok(n) })).await.unwrap();
        }
        processor.run(&ProcessKey::new("new"), |_| Box::pin(async { Ok(7_u64) })).await.unwrap();
        let removed = AtomicU64::new(0);
        barid_tests::eventually(Duration::from_secs(60), "the old ones are gone", || async {
            let purged = processor.purge(2).await.unwrap();
            removed.fetch_add(purged, Ordering::Relaxed) + purged == 5
        })
        .await;
        assert_eq!(processor.purge(10).await.unwrap(), 0);
        let kept = processor.run(&ProcessKey::new("new"), |_| Box::pin(async { Ok(8_u64) })).await.unwrap();
        assert_eq!(kept, Processed::Before(7));
    }
}
