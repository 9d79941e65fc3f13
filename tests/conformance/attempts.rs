//! The contract of an attempt store, on every store there is: memory and the three databases.

#![allow(clippy::unwrap_used)] // a test

use std::sync::Arc;

use barid::{
    SqlUnitOfWork, UnitOfWork,
    retry::{AttemptStore, MemoryAttempts},
    store::{AnyPool, backend::IdempotencyKey, schema},
};
use databases::{Fresh, KINDS};
use uuid::Uuid;

#[allow(dead_code)] // other suites need more of it
mod databases;

/// A store, and what keeps its database alive.
struct Subject {
    name: String,
    store: Arc<dyn AttemptStore>,
    /// The same rows as another instance sees them; the memory has none.
    elsewhere: Option<Arc<dyn AttemptStore>>,
    _database: Option<Fresh>,
}

fn over(pool: AnyPool) -> Arc<dyn AttemptStore> {
    let capabilities = match pool {
        AnyPool::Postgres(pool) => SqlUnitOfWork::new(pool).capabilities(),
        AnyPool::MySql(pool) => SqlUnitOfWork::new(pool).capabilities(),
        AnyPool::Sqlite(pool) => SqlUnitOfWork::new(pool).capabilities(),
        _ => unreachable!("there are three databases"),
    };
    capabilities.attempts.unwrap()
}

async fn subjects() -> Vec<Subject> {
    let mut all = vec![Subject {
        name: "memory".to_owned(),
        store: Arc::new(MemoryAttempts::default()),
        elsewhere: None,
        _database: None,
    }];
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        all.push(Subject {
            name: format!("{kind:?}"),
            store: over(pool),
            elsewhere: Some(over(database.pool().await)),
            _database: Some(database),
        });
    }
    all
}

fn key(scope: &str) -> IdempotencyKey {
    IdempotencyKey { message_id: Uuid::now_v7(), scope: scope.to_owned() }
}

#[tokio::test]
async fn counts_go_up_and_down_and_belong_to_one_message_of_one_bus() {
    for Subject { name, store, .. } in &subjects().await {
        let (one, other) = (key("orders"), key("orders"));
        assert_eq!(store.failed(&one, false, "first").await.unwrap(), 1, "{name}: an uncounted failure");
        assert_eq!(store.started(&one).await.unwrap(), 2, "{name}: a start");
        assert_eq!(store.failed(&one, true, "second").await.unwrap(), 2, "{name}: it was counted");
        assert_eq!(store.started(&one).await.unwrap(), 3, "{name}");
        store.take_back(&one).await.unwrap();
        assert_eq!(store.started(&one).await.unwrap(), 3, "{name}: what was taken back does not count");

        assert_eq!(store.started(&other).await.unwrap(), 1, "{name}: another message");
        let elsewhere = IdempotencyKey { scope: "billing".to_owned(), ..one.clone() };
        assert_eq!(store.started(&elsewhere).await.unwrap(), 1, "{name}: another bus");
    }
}

#[tokio::test]
async fn a_count_never_goes_below_zero() {
    for Subject { name, store, .. } in &subjects().await {
        let key = key("orders");
        store.take_back(&key).await.unwrap();
        store.take_back(&key).await.unwrap();
        assert_eq!(store.started(&key).await.unwrap(), 1, "{name}");
    }
}

#[tokio::test]
async fn the_errors_are_kept_in_their_order_whatever_they_say() {
    for Subject { name, store, .. } in &subjects().await {
        let key = key("orders");
        assert_eq!(store.errors(&key).await.unwrap(), Vec::<String>::new(), "{name}: nothing was counted");
        store.started(&key).await.unwrap();
        assert_eq!(store.errors(&key).await.unwrap(), Vec::<String>::new(), "{name}: a start says nothing");
        let said =
            ["plain", "", "a \"quote\", a \\ and a comma", "two\nlines", "nul \0 and 🐎", "'; DROP TABLE x"];
        for error in said {
            store.failed(&key, true, error).await.unwrap();
            store.take_back(&key).await.unwrap();
        }
        assert_eq!(store.errors(&key).await.unwrap(), said, "{name}");
    }
}

#[tokio::test]
async fn a_long_history_is_bounded_and_still_counted() {
    for Subject { name, store, .. } in &subjects().await {
        let key = key("orders");
        let long = "é\u{1}".repeat(100_000);
        for attempt in 1..=50 {
            assert_eq!(store.failed(&key, false, &long).await.unwrap(), attempt, "{name}");
        }
        let errors = store.errors(&key).await.unwrap();
        assert!((1..=50).contains(&errors.len()), "{name}: {} errors", errors.len());
        for error in errors {
            assert!(error.len() < 3_000 && error.starts_with("é\u{1}é"), "{name}: {} bytes", error.len());
            assert!(error.contains("300000 bytes in all"), "{name}: it does not say that it was cut");
        }
    }
}

#[tokio::test]
async fn what_is_forgotten_begins_again() {
    for Subject { name, store, .. } in &subjects().await {
        let (gone, kept) = (key("orders"), key("orders"));
        store.failed(&gone, false, "once").await.unwrap();
        store.failed(&kept, false, "once").await.unwrap();
        store.forget(&gone).await.unwrap();
        store.forget(&gone).await.unwrap();
        assert_eq!(store.errors(&gone).await.unwrap(), Vec::<String>::new(), "{name}");
        assert_eq!(store.started(&gone).await.unwrap(), 1, "{name}");
        assert_eq!(store.started(&kept).await.unwrap(), 2, "{name}: only one was forgotten");
    }
}

#[tokio::test]
async fn another_instance_goes_on_with_the_count() {
    for Subject { name, store, elsewhere, .. } in &subjects().await {
        let Some(elsewhere) = elsewhere else { continue };
        let key = key("orders");
        store.failed(&key, false, "here").await.unwrap();
        assert_eq!(elsewhere.started(&key).await.unwrap(), 2, "{name}");
        elsewhere.failed(&key, true, "there").await.unwrap();
        assert_eq!(store.errors(&key).await.unwrap(), ["here", "there"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_starts_are_all_counted_and_each_gets_its_own_number() {
    for Subject { name, store, elsewhere, .. } in &subjects().await {
        let key = key("orders");
        let starts = (0..40).map(|n| {
            let store = elsewhere.as_ref().filter(|_| n % 2 == 0).unwrap_or(store).clone();
            let key = key.clone();
            tokio::spawn(async move { store.started(&key).await.unwrap() })
        });
        let mut counts = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            counts.push(start.await.unwrap());
        }
        counts.sort_unstable();
        assert_eq!(counts, (1..=40).collect::<Vec<_>>(), "{name}");
    }
}
