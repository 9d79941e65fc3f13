//! What a step leaves with its effects.

use super::*;

pub(super) async fn an_action_is_done_once_and_says_the_same_again<DB: Backend>(pool: Pool<DB>, any: &AnyPool)
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    let database = StepDatabase::new(pool).outbox(Outbox::new("things"));
    database.ready().await.unwrap();
    let work = Arc::new(work::<DB>(&database));
    assert_eq!(work.can(), Abilities { compensates: true, recognises: true });
    let mut all = tokio::task::JoinSet::new();
    for attempt in 1..=6 {
        let work = Arc::clone(&work);
        all.spawn(async move {
            loop {
                match work.act(&call("one", attempt)).await {
                    // Another one is at it.
                    Err(Fault::Busy(_)) => tokio::task::yield_now().await,
                    done => return done.unwrap(),
                }
            }
        });
    }
    let said = all.join_all().await;
    assert!(said.iter().all(|output| *output == said[0]), "{said:?}");
    assert_eq!(work.settle(&call("one", 1)).await.unwrap(), Some(said[0].clone()));
    assert_eq!(count(any, "SELECT count(*) FROM barid_test WHERE what='done'").await, 1);
    assert_eq!(count(any, "SELECT count(*) FROM outbox WHERE type='things.done'").await, 1);
    work.act(&call("two", 1)).await.unwrap();
    assert_eq!(count(any, "SELECT count(*) FROM barid_test WHERE what='done'").await, 2, "another saga");
    work.forget(SagaId::of("one"), "first").await.unwrap();
    assert_eq!(count(any, "SELECT count(*) FROM orchestration_marker").await, 1);
}

pub(super) async fn a_compensation_undoes_once_what_was_done<DB: Backend>(pool: Pool<DB>, any: &AnyPool)
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    let work = work::<DB>(&StepDatabase::new(pool));
    work.act(&call("one", 3)).await.unwrap();
    for attempt in 1..=3 {
        // It knows what the action returned even if the saga never heard of it.
        work.compensate(&call("one", attempt)).await.unwrap();
    }
    assert_eq!(count(any, "SELECT count(*) FROM barid_test WHERE what='undone'").await, 1);
}

pub(super) async fn what_was_undone_before_is_never_done<DB: Backend>(pool: Pool<DB>, any: &AnyPool)
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    let work = work::<DB>(&StepDatabase::new(pool));
    for _ in 0..2 {
        work.compensate(&call("one", 1)).await.unwrap();
    }
    assert_eq!(work.settle(&call("two", 1)).await.unwrap(), None);
    for text in ["one", "two"] {
        let late = work.act(&call(text, 2)).await.unwrap_err();
        assert!(matches!(late, Fault::Refused(_)), "{late:?}");
        assert_eq!(work.settle(&call(text, 1)).await.unwrap(), None);
    }
    assert_eq!(count(any, "SELECT count(*) FROM barid_test").await, 0);
    assert_eq!(count(any, "SELECT count(*) FROM outbox").await, 0);
}

pub(super) async fn what_fails_leaves_nothing<DB: Backend>(pool: Pool<DB>, any: &AnyPool)
where
    for<'x> &'x mut DB::Connection: Executor<'x, Database = DB>,
{
    let database = StepDatabase::new(pool);
    let failing = |error: fn() -> Error| {
        database.work(move |_: StepContext<Data>, db| {
            let insert = db.execute(sqlx::raw_sql("INSERT INTO barid_test(what)VALUES('done')"));
            Box::pin(async move {
                insert.await?;
                Err::<(), _>(error())
            })
        })
    };
    let fault = failing(|| Error::new("a")).act(&call("one", 1)).await.unwrap_err();
    assert!(matches!(fault, Fault::Failed(_)), "{fault:?}");
    let fault = failing(|| Error::permanent("b")).act(&call("one", 1)).await.unwrap_err();
    assert!(matches!(fault, Fault::Permanent(_)), "{fault:?}");
    let fault = failing(|| Error::later("c")).act(&call("one", 1)).await.unwrap_err();
    assert!(matches!(fault, Fault::Busy(_)), "{fault:?}");
    let other = Call { data: "7".into(), ..call("one", 1) };
    let fault = work::<DB>(&database).act(&other).await.unwrap_err();
    assert!(
        matches!(&fault, Fault::Permanent(error) if error.to_string().contains("the data of the saga")),
        "{fault:?}"
    );
    for table in ["SELECT count(*) FROM barid_test", "SELECT count(*) FROM orchestration_marker"] {
        assert_eq!(count(any, table).await, 0, "{table}");
    }
}
