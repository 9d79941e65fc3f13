//! Begun in one process and ended in another; who is late, or has no right to.

use std::{sync::Arc, time::Duration};

use barid::{
    Error,
    distributed::{
        Access, Action, DistributedError, DistributedUnitOfWork, Principal, Resource, ResourceId, Settings,
        SqlHome, SqlLastResource,
        core::{Decision, Outcome},
    },
    store::schema,
};
use barid_tests::{TestDatabase, dice::Dice};

use super::{shop::Shop, told};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_prepares_another_one_ends() {
    let shop = Shop::new().await;
    let one = shop.process(Settings::default()).await;
    one.begin("ann", "order-1", 1).await.unwrap();
    one.begin("ann", "order-2", 2).await.unwrap();
    assert!(!shop.happened(1).await && shop.prepared(&one).await == 4, "prepared, and nothing to be seen");
    one.close().await;

    let other = shop.process(Settings::default()).await;
    // What waits is no business of recovery.
    let found = other.coordinator.recover_once().await.unwrap();
    assert_eq!((found.aborted, found.orphans), (0, 0), "{found:?}");
    let transactions = other.coordinator.named(Principal::new("bob"));
    let resolved = transactions.commit_distributed("order-1").await.unwrap();
    assert_eq!((resolved.decision, resolved.outcome), (Decision::Commit, Outcome::Committed));
    assert!(!resolved.pending && shop.happened(1).await && !shop.happened(2).await);
    let again = transactions.commit_distributed("order-1").await.unwrap();
    assert_eq!((again.outcome, again.pending), (Outcome::Committed, false), "once more is the same as once");
    // What users of other systems wrote: undo after the commit. It must touch nothing.
    let late = transactions.rollback_distributed("order-1").await.unwrap_err();
    assert!(matches!(late, DistributedError::AlreadyCommitted { .. }), "{late}");
    assert!(late.to_string().contains("order-1") && shop.happened(1).await, "{late}");

    let resolved = transactions.rollback_distributed("order-2").await.unwrap();
    assert_eq!((resolved.decision, resolved.outcome), (Decision::Abort, Outcome::Aborted));
    transactions.rollback_distributed("order-2").await.unwrap();
    let late = transactions.commit_distributed("order-2").await.unwrap_err();
    assert!(matches!(late, DistributedError::AlreadyRolledBack { .. }), "{late}");
    let text = late.to_string();
    assert!(
        text.contains("order-2") && text.contains("asked for by bob") && text.contains("another name"),
        "{text}"
    );
    assert!(!shop.happened(2).await && shop.prepared(&other).await == 0);
    let unknown = transactions.commit_distributed("order-3").await.unwrap_err();
    assert!(matches!(unknown, DistributedError::NotFound(_)), "{unknown}");
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_plain_and_has_one_owner_and_refusals_leave_nothing() {
    let shop = Shop::new().await;
    let process = shop.process(Settings::default()).await;
    for name in ["it's", "x'; DROP TABLE entry;--", "", "a b", "\u{fc}mlaut"] {
        let error = process.begin("ann", name, 1).await.unwrap_err();
        assert!(matches!(told(&error), DistributedError::BadName(_)), "{error}");
        let error =
            process.coordinator.named(Principal::new("ann")).commit_distributed(name).await.unwrap_err();
        assert!(matches!(error, DistributedError::BadName(_)), "{error}");
    }
    assert_eq!(shop.logged("SELECT count(*) FROM dtx_transaction").await, 0, "nothing left behind");
    assert_eq!(shop.prepared(&process).await, 0);

    // Letters that SQL or LIKE could take for something else are only letters here.
    process.begin("ann", "ann@example.org:7_1", 1).await.unwrap();
    let other = shop.process(Settings::default()).await;
    let error = other.begin("bob", "ann@example.org:7_1", 2).await.unwrap_err();
    let DistributedError::NameInUse { name, status, .. } = told(&error) else { panic!("{error}") };
    assert_eq!((&**name, &**status), ("ann@example.org:7_1", "prepared"));
    assert_eq!(shop.logged("SELECT count(*) FROM dtx_transaction").await, 1, "nothing left of the second");
    assert_eq!(shop.prepared(&process).await, 2);

    process.coordinator.named(Principal::new("ann")).commit_distributed("ann@example.org:7_1").await.unwrap();
    let error = other.begin("bob", "ann@example.org:7_1", 2).await.unwrap_err();
    let used = matches!(told(&error), DistributedError::NameUsed { status, .. } if status == "committed");
    assert!(used && error.to_string().contains("use another name"), "{error}");
    assert_eq!(shop.prepared(&process).await, 0);

    // What was never prepared has left nothing, and its name is free.
    let (unit, work) = other.unit();
    let named = other.coordinator.named(Principal::new("bob"));
    let failed = named.begin_distributed("retried", unit, || async {
        work.insert(3).await?;
        Err::<(), _>(Error::new("no such customer"))
    });
    assert_eq!(failed.await.unwrap_err().to_string(), "no such customer", "as it is");
    drop(work);
    let late = named.commit_distributed("retried").await.unwrap_err();
    assert!(matches!(late, DistributedError::AlreadyRolledBack { .. }), "{late}");
    // One that votes no: the entry is there already.
    assert!(other.begin("bob", "retried", 1).await.is_err());
    other.begin("bob", "retried", 3).await.unwrap();
    named.commit_distributed("retried").await.unwrap();
    assert!(shop.happened(1).await && !shop.happened(2).await && shop.happened(3).await);

    // An ended name is free again after its time.
    let hasty = shop.process(Settings { name_kept_for: Duration::ZERO, ..Settings::default() }).await;
    hasty.begin("bob", "retried", 4).await.unwrap();
    hasty.coordinator.named(Principal::new("bob")).rollback_distributed("retried").await.unwrap();
    for process in [process, other, hasty] {
        process.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_before_everybody_has_promised_is_refused_and_a_rollback_wins() {
    let shop = Shop::new().await;
    let (one, other) = (shop.process(Settings::default()).await, shop.process(Settings::default()).await);
    let named = other.coordinator.named(Principal::new("bob"));
    let (unit, work) = one.unit();
    let ann = one.coordinator.named(Principal::new("ann"));
    let begun = ann.begin_distributed("early", unit, || async {
        work.insert(1).await?;
        let early = named.commit_distributed("early").await.unwrap_err();
        assert!(matches!(early, DistributedError::NotPrepared { .. }), "{early}");
        let resolved = named.rollback_distributed("early").await.unwrap();
        assert_eq!(resolved.decision, Decision::Abort);
        Ok(())
    });
    let error = begun.await.unwrap_err();
    assert!(matches!(told(&error), DistributedError::Aborted { .. }), "{error}");
    assert!(!shop.happened(1).await && shop.prepared(&one).await == 0);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_changed_nothing_has_nothing_to_commit() {
    let shop = Shop::new().await;
    let process = shop.process(Settings::default()).await;
    let (unit, work) = process.unit();
    let named = process.coordinator.named(Principal::new("ann"));
    let begun = named.begin_distributed("half", unit, || async {
        let insert = sqlx::query("INSERT INTO entry(id)VALUES(1)");
        sqlx::Executor::execute(&mut *work.bills.connection().await?, insert).await?;
        Ok(())
    });
    begun.await.unwrap();
    let resolved = named.commit_distributed("half").await.unwrap();
    assert_eq!((resolved.outcome, resolved.pending), (Outcome::Committed, false));
    assert_eq!(barid_tests::transfer::number(&shop.pools()[2], "SELECT count(*) FROM entry").await, 1);
    process.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_commit_and_a_rollback_that_meet_one_wins() {
    let seed = std::env::var("BARID_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut dice = Dice::new(seed);
    let shop = Shop::new().await;
    let (one, other) = (shop.process(Settings::default()).await, shop.process(Settings::default()).await);
    let (mut committed, mut rolled_back) = (0, 0);
    for id in 0..12 {
        let name = format!("race-{id}");
        one.begin("ann", &name, id).await.unwrap();
        let (ann, bob) =
            (one.coordinator.named(Principal::new("ann")), other.coordinator.named(Principal::new("bob")));
        let (first, second) = (dice.below(3), dice.below(3));
        let (commit, rollback) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(first)).await;
                ann.commit_distributed(&name).await
            },
            async {
                tokio::time::sleep(Duration::from_millis(second)).await;
                bob.rollback_distributed(&name).await
            },
        );
        match (&commit, &rollback) {
            (Ok(_), Err(DistributedError::AlreadyCommitted { .. })) => committed += 1,
            (Err(DistributedError::AlreadyRolledBack { .. }), Ok(_)) => rolled_back += 1,
            _ => panic!("seed {seed}, {name}: {commit:?} {rollback:?}"),
        }
        // Whoever won may not have been answered by each branch: recovery completes it.
        barid_tests::eventually(Duration::from_secs(120), "it is over", || async {
            one.coordinator.recover_once().await.unwrap();
            shop.prepared(&one).await == 0
        })
        .await;
        assert_eq!(shop.happened(id).await, commit.is_ok(), "seed {seed}, {name}");
    }
    println!("seed {seed}: {committed} committed, {rolled_back} rolled back");
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_denied_and_it_is_written_down() {
    let shop = Shop::new().await;
    let policy = |who: &Principal, what: Action, name: &str| match (who.name(), what) {
        ("guest", _) => Err("guests only look".to_owned()),
        ("clerk", Action::Rollback) => Err("a clerk undoes nothing".to_owned()),
        _ if name.starts_with("secret") => Err("nobody touches this".to_owned()),
        _ => Ok(()),
    };
    let process = shop.process(Settings { access: Access::new(policy), ..Settings::default() }).await;
    let error = process.begin("guest", "order-1", 1).await.unwrap_err();
    assert!(matches!(told(&error), DistributedError::Denied(_)), "{error}");
    assert_eq!(error.to_string(), "guest may not begin transaction \"order-1\": guests only look");
    assert_eq!(shop.logged("SELECT count(*) FROM dtx_transaction").await, 0);

    process.begin("clerk", "order-2", 2).await.unwrap();
    for (who, undo) in [("guest", false), ("clerk", true)] {
        let named = process.coordinator.named(Principal::new(who));
        let denied = match undo {
            true => named.rollback_distributed("order-2").await,
            false => named.commit_distributed("order-2").await,
        };
        assert!(matches!(denied.unwrap_err(), DistributedError::Denied(_)), "{who}");
    }
    assert_eq!(shop.prepared(&process).await, 2, "nothing was done");
    process.coordinator.named(Principal::new("clerk")).commit_distributed("order-2").await.unwrap();
    assert!(shop.happened(2).await && !shop.happened(1).await);

    // A unit without a name is asked for under its id, in the name of the process.
    let refusing = |who: &Principal, what: Action, _: &str| match what {
        Action::Commit => Err(format!("{who} never commits")),
        _ => Ok(()),
    };
    let settings = Settings {
        access: Access::new(refusing),
        principal: Principal::new("nightly"),
        ..Settings::default()
    };
    let nightly = shop.process(settings).await;
    let (unit, work) = nightly.unit();
    let gid = unit.transaction_id().to_string();
    let error = unit.run(|| work.insert(3)).await.unwrap_err();
    assert!(error.to_string().contains("nightly never commits"), "{error}");
    nightly.coordinator.drain().await;
    assert!(!shop.happened(3).await && shop.prepared(&nightly).await == 0);

    let audit = process.coordinator.audited(None, 100).await.unwrap();
    let lines: Vec<String> = audit
        .iter()
        .rev()
        .map(|entry| {
            format!("{} {} {} {}: {}", entry.principal, entry.outcome, entry.action, entry.name, entry.reason)
        })
        .collect();
    let expected = [
        "guest denied begin order-1: guests only look".to_owned(),
        "guest denied commit order-2: guests only look".to_owned(),
        "clerk denied rollback order-2: a clerk undoes nothing".to_owned(),
        format!("nightly denied commit {gid}: nightly never commits"),
    ];
    assert_eq!(lines, expected);
    assert!(audit.iter().all(|entry| entry.at.is_some()));
    assert_eq!(process.coordinator.audited(Some("order-2"), 100).await.unwrap().len(), 2);
    process.close().await;
    nightly.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_prepared_is_unsupported_and_says_so() {
    let shop = Shop::new().await;
    let file = TestDatabase::sqlite().await;
    schema::apply(&file.pool.clone().into()).await.unwrap();
    let last = SqlLastResource::new(ResourceId::new("file").unwrap(), file.pool.clone());
    let log = Arc::new(barid::distributed::SqlDecisionLog::new(shop.log.pool.clone()));
    let resources: [Arc<dyn Resource>; 1] = [last.clone()];
    let coordinator =
        barid::distributed::Coordinator::connect(log.clone(), resources, Settings::default()).await.unwrap();
    let named = coordinator.named(Principal::new("ann"));
    let nothing = || async { Ok(()) };
    let mut sqlite = DistributedUnitOfWork::new(&coordinator);
    sqlite.register_participant("the file", last.branch()).unwrap();
    let mut home = DistributedUnitOfWork::new(&coordinator);
    home.register_home(SqlHome::new(&log)).unwrap();
    let empty = DistributedUnitOfWork::new(&coordinator);
    for (unit, says) in
        [(sqlite, "sqlite (\"the file\")"), (home, "a home unit of work"), (empty, "without participants")]
    {
        let error = named.begin_distributed("order-1", unit, nothing).await.unwrap_err();
        assert!(matches!(told(&error), DistributedError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains("PostgreSQL"), "{error}");
    }
    assert_eq!(shop.logged("SELECT count(*) FROM dtx_transaction").await, 0);
}
