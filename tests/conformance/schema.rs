//! The schema on every database: applied once however many ask, and refused when it does not fit.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use barid::store::{
    pool::{AnyPool, ConnectError},
    schema::{self, SchemaError},
};
use databases::{Fresh, KINDS, Kind, run};

mod databases;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_apply_at_once() {
    for kind in KINDS {
        for _ in 0..10 {
            let database = Fresh::new(kind).await;
            let (one, two) = (database.pool().await, database.pool().await);
            let known = schema::migrations(one.dialect()).len();
            let (a, b) = (one.clone(), two.clone());
            let (a, b) = tokio::join!(
                tokio::spawn(async move { schema::apply(&a).await }),
                tokio::spawn(async move { schema::apply(&b).await }),
            );
            let (a, b) = (a.unwrap().unwrap().len(), b.unwrap().unwrap().len());
            assert_eq!(
                (a.max(b), a.min(b)),
                (known, 0),
                "{kind:?}: one applies everything, the other nothing"
            );
            schema::check(&two).await.unwrap();
            one.close().await;
            two.close().await;
        }
    }
}

#[tokio::test]
async fn an_empty_database_lacks_everything_and_says_how_to_get_it() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        let error = schema::check(&pool).await.unwrap_err();
        assert!(matches!(error, SchemaError::Missing { .. }), "{kind:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("0001_outbox") && text.contains("barid-relay schema apply"), "{text}");

        schema::apply(&pool).await.unwrap();
        let status = schema::status(&pool).await.unwrap();
        assert_eq!(status.applied, schema::migrations(pool.dialect()));
        assert!(status.pending.is_empty() && status.newer.is_empty());

        run(&pool, "DELETE FROM barid_schema WHERE version = 5").await;
        let text = schema::check(&pool).await.unwrap_err().to_string();
        assert!(text.contains("lacks 0005_relay of"), "{text}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        run(&pool, "INSERT INTO barid_schema (version, name, checksum) VALUES (99, 'future', 'x')").await;
        let newest = schema::migrations(pool.dialect()).last().unwrap().version;
        for error in [schema::check(&pool).await.unwrap_err(), schema::apply(&pool).await.unwrap_err()] {
            let refused = matches!(error, SchemaError::Newer { found: 99, known, .. } if known == newest);
            assert!(refused, "{kind:?}: {error}");
            assert!(error.to_string().contains("update this program"), "{error}");
        }
        // The refusal left no lock behind.
        run(&pool, "DELETE FROM barid_schema WHERE version = 99").await;
        assert!(schema::apply(&pool).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_changed_migration_is_noticed() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        run(&pool, "UPDATE barid_schema SET checksum = 'x' WHERE version = 2").await;
        for error in [schema::check(&pool).await.unwrap_err(), schema::apply(&pool).await.unwrap_err()] {
            assert!(matches!(error, SchemaError::Changed { version: 2, .. }), "{kind:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_leaves_no_lock() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        // Something of the user's is in the way, and is of another shape than ours.
        run(&pool, "CREATE VIEW idempotency AS SELECT 1 AS one").await;
        let error = schema::apply(&pool).await.unwrap_err();
        assert!(matches!(error, SchemaError::Failed { version: 2, .. }), "{kind:?}: {error}");
        assert!(error.to_string().contains("(idempotency)"), "{error}");
        run(&pool, "DROP VIEW idempotency").await;
        // MariaDB has no transaction around DDL: what came before the failed step stays.
        let all = schema::migrations(pool.dialect()).len();
        let left = if matches!(kind, Kind::MariaDb) { all - 1 } else { all };
        assert_eq!(schema::apply(&pool).await.unwrap().len(), left, "{kind:?}");
        schema::check(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn the_printed_schema_is_the_applied_schema() {
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        let text = schema::print(pool.dialect());
        run(&pool, Box::leak(text.into_boxed_str())).await;
        schema::check(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let database = Fresh::new(kind).await;
        let mut url = url::Url::parse(&database.url).unwrap();
        url.set_password(Some("s3cret")).unwrap();
        let error = AnyPool::connect(url.as_str(), 1).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{kind:?}: {error:?}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");

        url.set_port(Some(1)).unwrap();
        let error = AnyPool::connect(url.as_str(), 1).await.unwrap_err();
        assert!(error.is_transient() && !format!("{error:?}").contains("s3cret"), "{kind:?}: {error:?}");
    }
}
