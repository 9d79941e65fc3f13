//! The log as a whole, on every database.

use std::{sync::Arc, time::Duration};

use barid::{
    Error,
    distributed::{
        Coordinator, DecisionLog, DistributedError, DistributedUnitOfWork, Forget, Principal, Resource,
        ResourceId, Settings, SqlDecisionLog, SqlResource, TransactionFilter, Which,
        core::{Decision, Outcome},
    },
    store::{AnyPool, schema},
};
use barid_tests::{TestDatabase, transfer::number};

use super::hearing::text;

/// The log is the same on every database: names, waiting, clean-up, lists, the view, the audit.
async fn on_every_log(log: Arc<dyn DecisionLog>, pool: AnyPool) {
    let kind = pool.dialect();
    let side = TestDatabase::postgres().await;
    schema::apply(&side.pool.clone().into()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE entry(id BIGINT PRIMARY KEY)").execute(&side.pool).await.unwrap();
    let resource = SqlResource::new(ResourceId::new("side").unwrap(), side.pool.clone());
    let prepare = async |coordinator: &Coordinator, name: &str, wait: Duration, id: i64| {
        let (mut unit, branch) = (DistributedUnitOfWork::new(coordinator), resource.branch());
        unit.register_participant("side", branch.clone()).unwrap();
        let begun = coordinator.named(Principal::new("ann")).waiting_for(wait);
        let work = || async {
            let insert = sqlx::query("INSERT INTO entry(id)VALUES($1)").bind(id);
            sqlx::Executor::execute(&mut *branch.connection().await?, insert).await?;
            Ok::<_, Error>(())
        };
        begun.begin_distributed(name, unit, work).await
    };
    let connect = async |settings| {
        let resources: [Arc<dyn Resource>; 1] = [resource.clone()];
        Coordinator::connect(Arc::clone(&log), resources, settings).await.unwrap()
    };
    let coordinator = connect(Settings { stale_after: Duration::ZERO, ..Settings::default() }).await;
    let day = Duration::from_secs(24 * 60 * 60);
    prepare(&coordinator, "waits", day, 1).await.unwrap();
    prepare(&coordinator, "stale", Duration::ZERO, 2).await.unwrap();
    let taken = prepare(&coordinator, "waits", day, 3).await.unwrap_err();
    assert!(matches!(taken.find(), Some(DistributedError::NameInUse { .. })), "{kind}: {taken}");

    let open = coordinator.list(&TransactionFilter::default()).await.unwrap();
    let seen: Vec<_> = open.iter().map(|entry| (entry.name.as_deref(), &*entry.status)).collect();
    assert_eq!(seen, [(Some("waits"), "prepared"), (Some("stale"), "prepared")], "{kind}: the oldest first");
    let waits = &open[0];
    assert_eq!((waits.principal.as_deref(), &*waits.kind, waits.home), (Some("ann"), "2pc", false), "{kind}");
    let wait = waits.deadline - waits.prepared_at.unwrap();
    let off = (wait.num_milliseconds() - 24 * 60 * 60 * 1_000).abs();
    assert!(off < 600_000, "{kind}: by the database's clock: {wait}");
    assert!(waits.age_ms < 600_000 && waits.prepared_at >= Some(waits.started_at), "{kind}: {waits:?}");
    let figures = coordinator.figures().await.unwrap();
    assert_eq!((figures.open, figures.waiting, figures.in_doubt, figures.manual), (2, 2, 0, 0), "{kind}");
    assert_eq!(figures.oldest, Some(waits.gid), "{kind}");

    let cleaned = coordinator.clean_up_once().await.unwrap();
    assert_eq!((cleaned.stale, cleaned.manual), (1, 0), "{kind}: {cleaned:?}");
    let stale = coordinator.find("stale").await.unwrap().unwrap();
    assert_eq!(&*stale.status, "cleaned_up", "{kind}");
    assert_eq!(stale.cleaned_up_reason.as_deref(), Some("stale_timeout"), "{kind}");
    assert!(stale.cleaned_up_at.is_some() && stale.finished_at.is_some(), "{kind}: {stale:?}");
    for (name, status) in [("waits", "pending"), ("stale", "cleaned_up")] {
        let query = format!("SELECT status FROM distributed_transactions WHERE id='{name}'");
        assert_eq!(text(&pool, &query).await, status, "{kind}");
    }
    let late = coordinator.named(Principal::new("ann")).commit_distributed("stale").await.unwrap_err();
    assert!(late.to_string().contains("stale_timeout"), "{kind}: {late}");

    // By hand, with a reason, and written down.
    let ann = Principal::new("ann");
    let refused = coordinator.resolve(&ann, waits.gid, Decision::Commit, " ").await.unwrap_err();
    assert!(matches!(refused, DistributedError::NoReason { .. }), "{kind}: {refused}");
    let refused = coordinator.forget(&ann, waits.gid, Forget::Finished, "tidy").await.unwrap_err();
    assert!(matches!(refused, DistributedError::StillOpen { .. }), "{kind}: {refused}");
    let resolved = coordinator.resolve(&ann, waits.gid, Decision::Commit, "it's paid").await.unwrap();
    assert_eq!((resolved.outcome, resolved.pending), (Outcome::Committed, false), "{kind}");
    let opposite = coordinator.resolve(&ann, waits.gid, Decision::Abort, "oh no").await.unwrap_err();
    assert!(matches!(opposite, DistributedError::AlreadyCommitted { .. }), "{kind}: {opposite}");
    let detail = coordinator.show(waits.gid).await.unwrap().unwrap();
    assert_eq!((&*detail.transaction.status, detail.branches.len()), ("committed", 1), "{kind}");
    assert_eq!((&*detail.branches[0].status, &*detail.branches[0].resource), ("committed", "side"), "{kind}");
    assert!(detail.transaction.decision_reason.as_deref().unwrap().contains("ann: it's paid"), "{kind}");
    let markers = "SELECT count(*) FROM dtx_marker";
    assert_eq!(number(&side.pool.clone().into(), markers).await, 1, "{kind}");
    coordinator.forget(&ann, waits.gid, Forget::Finished, "tidy").await.unwrap();
    assert_eq!(number(&side.pool.clone().into(), markers).await, 0, "{kind}: the marker went with it");
    assert!(coordinator.show(waits.gid).await.unwrap().is_none(), "{kind}");
    let audit = coordinator.audited(Some("waits"), 10).await.unwrap();
    let audit: Vec<_> =
        audit.iter().rev().map(|entry| format!("{}: {}", entry.action, entry.reason)).collect();
    let expected = ["forget: tidy", "resolve: it's paid", "resolve: oh no", "forget: tidy"];
    assert_eq!(audit, expected, "{kind}: it stays when the transaction is forgotten");

    // What is over goes after its time, and so does who did what.
    let short = Settings { kept_for: Duration::ZERO, audit_kept_for: Duration::ZERO, ..Settings::default() };
    let cleaned = connect(short).await.clean_up_once().await.unwrap();
    assert_eq!((cleaned.purged, cleaned.audit_purged), (1, 4), "{kind}: {cleaned:?}");
    let all = TransactionFilter { which: Which::All, ..TransactionFilter::default() };
    assert!(coordinator.list(&all).await.unwrap().is_empty(), "{kind}");
    let rows = sqlx::query_scalar::<_, i64>("SELECT id FROM entry").fetch_all(&side.pool).await.unwrap();
    assert_eq!(rows, [1], "{kind}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_the_same_on_every_database() {
    let (postgres, mariadb, sqlite) =
        (TestDatabase::postgres().await, TestDatabase::mariadb().await, TestDatabase::sqlite().await);
    for pool in [
        AnyPool::from(postgres.pool.clone()),
        AnyPool::from(mariadb.pool.clone()),
        AnyPool::from(sqlite.pool.clone()),
    ] {
        schema::apply(&pool).await.unwrap();
    }
    on_every_log(Arc::new(SqlDecisionLog::new(postgres.pool.clone())), postgres.pool.clone().into()).await;
    on_every_log(Arc::new(SqlDecisionLog::new(mariadb.pool.clone())), mariadb.pool.clone().into()).await;
    on_every_log(Arc::new(SqlDecisionLog::new(sqlite.pool.clone())), sqlite.pool.clone().into()).await;
}
