//! What is set up wrongly, or asked for at the wrong time: each a clear error with its remedy, and nothing is left behind.
//!
//! What has to be set up wrongly has servers of its own. That nothing is left is asked of the databases: no prepared branch, no
//! session inside a transaction, no row of the work, and a transaction that the log knows to be over.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{sync::Arc, time::Duration};

use barid::{
    Bus, Context, Memory, Outgoing, SqlIdempotency, SqlOutbox,
    distributed::{
        Coordinator, DistributedError, DistributedUnits, Resource, ResourceId, RmError, Settings,
        SqlDecisionLog, SqlResource, TwoPhaseStatus,
        core::{Decision, Refusal},
    },
    store::AnyPool,
};
use barid_tests::{
    PrivateServer, TestDatabase, eventually,
    spread::Spread,
    transfer::{Bank, Scenario, impatient, number, run},
};
use sqlx::{PgPool, Postgres};

const LONG: Duration = Duration::from_secs(120);

/// Nobody is inside a transaction, and nothing is prepared.
async fn nothing_is_open(pool: &AnyPool) {
    let query = match pool {
        AnyPool::Postgres(_) => {
            "SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database=current_database()) \
             +(SELECT count(*) FROM pg_stat_activity WHERE datname=current_database()AND state LIKE 'idle in%')"
        }
        AnyPool::MySql(_) => "SELECT count(*) FROM information_schema.innodb_trx",
        _ => panic!("a database that can be prepared"),
    };
    // A connection that is being closed is gone a moment later.
    eventually(LONG, "nothing is open", || async { number(pool, query).await == 0 }).await;
}

/// The transfer of account 0 did not happen, anywhere, and is over.
async fn nothing_is_left(bank: &Bank) {
    assert!(!bank.happened(0).await);
    let open = "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL OR status<>'aborted'";
    assert_eq!(number(&bank.pools[0], open).await, 0, "every transaction is over");
    for pool in &bank.pools {
        nothing_is_open(pool).await;
    }
}

/// A home of its own, and the server that is set up wrongly.
async fn bank(home: &TestDatabase<Postgres>, side: &PrivateServer) -> Bank {
    let urls = [home.url.clone(), side.url.clone()];
    Bank::create(&urls, 1).await.unwrap();
    Bank::open(&urls, impatient()).await.unwrap()
}

fn says(error: &str, all: &[&str]) {
    for part in all {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_prepare_is_refused_before_any_work() {
    let (home, side) =
        (TestDatabase::postgres().await, PrivateServer::postgres("-c max_prepared_transactions=0").await);
    let bank = bank(&home, &side).await;
    let error = bank.transferred(0, Scenario::Yes).await.unwrap_err();
    assert!(
        matches!(error.find(), Some(DistributedError::Branch { cause: RmError::Config(_), .. })),
        "{error}"
    );
    says(&error.to_string(), &["branch-1", "disabled", "set max_prepared_transactions", "restart"]);
    nothing_is_left(&bank).await;

    // A bus does not even start.
    let pool = PgPool::connect(&home.url).await.unwrap();
    let resource =
        SqlResource::new(ResourceId::new("billing").unwrap(), PgPool::connect(&side.url).await.unwrap());
    let health = Resource::health(&*resource).await;
    assert!(!health.healthy, "{health:?}");
    let bus = bus(&pool, &pool, &resource).await;
    let error = bus.run_until(std::future::pending()).await.unwrap_err().to_string();
    says(&error, &["billing", "disabled", "set max_prepared_transactions"]);
    bank.close().await;
}

/// A bus whose coordinator logs in one database, and whose home is in another.
async fn bus(log: &PgPool, home: &PgPool, branch: &Arc<SqlResource<Postgres>>) -> Bus {
    async fn spread(cmd: Spread, cx: Context) -> barid::Result<()> {
        cx.publish(Outgoing::new(cmd))
    }
    let log = Arc::new(SqlDecisionLog::new(log.clone()));
    let resources = [Arc::clone(branch) as Arc<dyn Resource>];
    let coordinator = Coordinator::connect(log, resources, Settings::default()).await.unwrap();
    Bus::builder("errors")
        .transport(Memory::new())
        .unit_of_work(DistributedUnits::new(&coordinator, home.clone()).branch(branch))
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .handler(spread)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_in_another_database_than_the_log_is_refused() {
    let (one, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    for database in [&one, &other] {
        barid::store::schema::apply(&database.pool.clone().into()).await.unwrap();
    }
    let resource = SqlResource::new(ResourceId::new("billing").unwrap(), other.pool.clone());
    let wrong = bus(&one.pool, &other.pool, &resource).await;
    let error = wrong.run_until(std::future::pending()).await.unwrap_err();
    says(&error.to_string(), &["another database than the log", "use the database of the log for both"]);
    assert!(!error.is_transient(), "trying again does not help");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slot_that_is_free_rolls_everything_back() {
    let (home, side) =
        (TestDatabase::postgres().await, PrivateServer::postgres("-c max_prepared_transactions=1").await);
    let bank = bank(&home, &side).await;
    let foreign = "BEGIN;INSERT INTO account(id,balance)VALUES(-1,0);PREPARE TRANSACTION 'somebody else'";
    run(&bank.pools[1], foreign).await.unwrap();
    let error = bank.transferred(0, Scenario::Yes).await.unwrap_err();
    assert!(matches!(error.find(), Some(DistributedError::Aborted { .. })), "{error}");
    says(&error.to_string(), &["branch-1", "pg_prepared_xacts", "raise max_prepared_transactions"]);
    run(&bank.pools[1], "ROLLBACK PREPARED 'somebody else'").await.unwrap();
    nothing_is_left(&bank).await;
    assert!(bank.transferred(0, Scenario::Yes).await.is_ok(), "with a free slot it works");
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_did_not_prepare_says_so_and_the_right_one_completes_it() {
    let (home, side) =
        (TestDatabase::postgres().await, PrivateServer::postgres("-c max_prepared_transactions=4").await);
    let bank = bank(&home, &side).await;
    run(
        &bank.pools[1],
        "CREATE ROLE stranger LOGIN PASSWORD 'stranger';GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger",
    )
    .await
    .unwrap();
    let (mut unit, transfer) = bank.transfer(0, Scenario::Yes).unwrap();
    unit.begin().await.unwrap();
    transfer.work().await.unwrap();
    assert!(unit.prepare_all().await.unwrap());

    let mut stranger = url::Url::parse(&side.url).unwrap();
    stranger.set_username("stranger").unwrap();
    stranger.set_password(Some("stranger")).unwrap();
    let id = ResourceId::new("branch-1").unwrap();
    let resource = SqlResource::new(id, PgPool::connect(stranger.as_str()).await.unwrap());
    let branches = resource.prepared(bank.coordinator.id()).await.unwrap();
    assert_eq!(branches.len(), 1);
    for decision in [Decision::Commit, Decision::Abort] {
        let error = resource.finish(&branches[0], decision).await.unwrap_err();
        assert!(matches!(error, RmError::Config(_)), "{error:?}");
        says(&error.to_string(), &["use the role that prepared the transaction"]);
    }
    assert_eq!(bank.prepared().await, 1, "it is as it was");
    assert!(unit.rollback_all().await.unwrap());
    nothing_is_left(&bank).await;
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_that_forgets_what_is_prepared_is_refused_before_any_work() {
    // What it says of itself is all that anybody can know of it.
    let (home, side) =
        (TestDatabase::postgres().await, PrivateServer::mariadb("--version=10.4.32-MariaDB").await);
    let bank = bank(&home, &side).await;
    let error = bank.transferred(0, Scenario::Yes).await.unwrap_err();
    assert!(
        matches!(error.find(), Some(DistributedError::Branch { cause: RmError::Config(_), .. })),
        "{error}"
    );
    says(&error.to_string(), &["branch-1", "10.4.32-MariaDB", "use MariaDB 10.5 or newer"]);
    nothing_is_left(&bank).await;
    bank.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_a_quote_is_only_a_name() {
    for name in ["o'brien", "a\"b", "x'); DROP TABLE account; --", "%_\\", "naïve 名"] {
        let error = ResourceId::new(name).unwrap_err().to_string();
        says(&error, &["cannot name a resource", "use 1 to 100 letters, digits, '.', '_' or '-'"]);
    }
    // What a branch is called is free text, and travels as a value.
    let (home, side) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    for database in [&home, &side] {
        barid::store::schema::apply(&database.pool.clone().into()).await.unwrap();
    }
    let log = Arc::new(SqlDecisionLog::new(home.pool.clone()));
    let resource = SqlResource::new(ResourceId::new("side").unwrap(), side.pool.clone());
    let resources = [Arc::clone(&resource) as Arc<dyn Resource>];
    let coordinator =
        Coordinator::connect(Arc::clone(&log) as _, resources, Settings::default()).await.unwrap();
    for name in ["o'brien", "x'); DROP TABLE dtx_branch; --", "naïve 名 %_\\"] {
        let mut unit = barid::distributed::DistributedUnitOfWork::new(&coordinator);
        unit.register_home(barid::distributed::SqlHome::new(&log)).unwrap();
        let branch = resource.branch();
        unit.register_participant(name, branch.clone()).unwrap();
        unit.begin().await.unwrap();
        let written: i64 = sqlx::query_scalar("SELECT count(*) FROM dtx_branch WHERE name=$1")
            .bind(name)
            .fetch_one(&home.pool)
            .await
            .unwrap();
        assert_eq!(written, 1, "{name}");
        let wrong =
            sqlx::query("SELECT 1 FROM nothing").execute(&mut *branch.connection().await.unwrap()).await;
        assert!(wrong.is_err());
        let error = unit.commit().await.unwrap_err().to_string();
        says(&error, &[&format!("{name:?}"), "a statement in the unit of work failed"]);
        nothing_is_open(&side.pool.clone().into()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_rolled_back_cannot_be_committed() {
    let (home, side) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let urls = [home.url.clone(), side.url.clone()];
    Bank::create(&urls, 1).await.unwrap();
    let bank = Bank::open(&urls, impatient()).await.unwrap();
    for prepared in [false, true] {
        let (mut unit, transfer) = bank.transfer(0, Scenario::Yes).unwrap();
        unit.begin().await.unwrap();
        transfer.work().await.unwrap();
        if prepared {
            assert!(unit.prepare_all().await.unwrap());
        }
        assert!(unit.rollback_all().await.unwrap());
        for refused in [unit.commit_all().await.map(drop), unit.commit().await.map(drop)] {
            let refused = refused.unwrap_err();
            let decided = Refusal::AlreadyDecided(Decision::Abort);
            assert!(
                matches!(&refused, DistributedError::Refused(refusal) if *refusal == decided),
                "{refused}"
            );
            says(&refused.to_string(), &["already decided (Abort)", "the decision stands"]);
        }
        assert_eq!(unit.status().status, TwoPhaseStatus::RolledBack);
        let begun = unit.begin().await.unwrap_err();
        assert!(matches!(begun, DistributedError::AlreadyBegun), "{begun}");
        nothing_is_left(&bank).await;
    }
    bank.close().await;
}
