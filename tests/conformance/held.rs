//! Held transactions on every database: nothing leaks into the pool, and a lost answer to COMMIT is told from a refusal.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::time::Duration;

use barid::store::{
    AnyPool,
    held::{CommitError, HeldTransaction},
};
use databases::{Fresh, KINDS, run};
use sqlx::{Executor, MySql, Postgres, Sqlite};

mod databases;

/// Begins, inserts and commits or is dropped at whatever point `cancel` says.
async fn insert(pool: &AnyPool, n: u64) {
    let work = async {
        match pool {
            AnyPool::Postgres(pool) => {
                let mut held = HeldTransaction::<Postgres>::begin(pool, "BEGIN").await.unwrap();
                held.connection().execute("INSERT INTO t VALUES (1)").await.unwrap();
                held.connection().execute("SELECT 1").await.unwrap();
            }
            AnyPool::MySql(pool) => {
                let mut held = HeldTransaction::<MySql>::begin(pool, "START TRANSACTION").await.unwrap();
                held.connection().execute("INSERT INTO t VALUES (1)").await.unwrap();
                held.connection().execute("SELECT 1").await.unwrap();
            }
            AnyPool::Sqlite(pool) => {
                let mut held = HeldTransaction::<Sqlite>::begin_immediate(pool).await.unwrap();
                held.connection().execute("INSERT INTO t VALUES (1)").await.unwrap();
                held.connection().execute("SELECT 1").await.unwrap();
            }
            _ => unreachable!("there are three databases"),
        }
    };
    // Whether it was cut off or came to its end does not matter: it never commits.
    let _ = tokio::time::timeout(Duration::from_micros(n * 20), work).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_transaction_leaves_nothing_behind() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        run(&pool, "CREATE TABLE t (n INTEGER)").await;
        for n in 0..150 {
            insert(&pool, n).await;
            // Were the pool's connection inside the dropped transaction, this row would vanish with it, and so the sum.
            run(&pool, "INSERT INTO t VALUES (0)").await;
        }
        let other = database.pool().await;
        assert_eq!(
            run(&other, "DELETE FROM t WHERE n = 1").await,
            0,
            "{kind:?}: a dropped transaction committed"
        );
        assert_eq!(
            run(&other, "DELETE FROM t").await,
            150,
            "{kind:?}: a row went into a transaction that was dropped"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_in_memory_database_survives_a_dropped_transaction() {
    let pool = AnyPool::connect("sqlite::memory:", 8).await.unwrap();
    run(&pool, "CREATE TABLE t (n INTEGER)").await;
    for n in 0..50 {
        insert(&pool, n).await;
    }
    run(&pool, "INSERT INTO t VALUES (0)").await;
    assert_eq!(run(&pool, "DELETE FROM t").await, 1);
}

#[tokio::test]
async fn a_session_that_is_killed_before_its_commit_is_unknown() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        let result = match &pool {
            AnyPool::Postgres(pool) => {
                let mut held = HeldTransaction::<Postgres>::begin(pool, "BEGIN").await.unwrap();
                let session = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
                let session = session.fetch_one(held.connection()).await.unwrap();
                let kill =
                    sqlx::query_scalar::<_, bool>("SELECT pg_terminate_backend($1, 5000)").bind(session);
                assert!(kill.fetch_one(pool).await.unwrap());
                held.commit().await
            }
            AnyPool::MySql(pool) => {
                let mut held = HeldTransaction::<MySql>::begin(pool, "START TRANSACTION").await.unwrap();
                let session = sqlx::query_scalar::<_, u64>("SELECT CONNECTION_ID()");
                let session = session.fetch_one(held.connection()).await.unwrap();
                let kill = format!("KILL CONNECTION {session}");
                pool.execute(sqlx::AssertSqlSafe(kill)).await.unwrap();
                held.commit().await
            }
            _ => continue,
        };
        assert!(matches!(result, Err(CommitError::Unknown(_))), "{kind:?}: {result:?}");
        // The dead connection did not go back to the pool.
        run(&pool, "CREATE TABLE t (n INTEGER)").await;
    }
}

#[tokio::test]
async fn a_refused_commit_is_known() {
    // A constraint that is checked at the commit: PostgreSQL and SQLite have them.
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        let result = match &pool {
            AnyPool::Postgres(pool) => {
                let tables = "CREATE TABLE p (n INT PRIMARY KEY);
                              CREATE TABLE c (n INT REFERENCES p DEFERRABLE INITIALLY DEFERRED)";
                pool.execute(tables).await.unwrap();
                let mut held = HeldTransaction::<Postgres>::begin(pool, "BEGIN").await.unwrap();
                held.connection().execute("INSERT INTO c VALUES (1)").await.unwrap();
                held.commit().await
            }
            AnyPool::Sqlite(pool) => {
                let tables = "CREATE TABLE p (n INT PRIMARY KEY);
                              CREATE TABLE c (n INT REFERENCES p DEFERRABLE INITIALLY DEFERRED)";
                pool.execute(tables).await.unwrap();
                let mut held = HeldTransaction::<Sqlite>::begin_immediate(pool).await.unwrap();
                held.connection().execute("INSERT INTO c VALUES (1)").await.unwrap();
                held.commit().await
            }
            _ => continue,
        };
        assert!(matches!(result, Err(CommitError::NotCommitted(_))), "{kind:?}: {result:?}");
        run(&pool, "INSERT INTO p VALUES (1)").await;
    }
}
