//! Whose turn it is: leases that run out, processes that come back too late, several at once, and humans.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use barid::{
    Error,
    distributed::Principal,
    orchestration::{
        Abilities, Call, Ended, Fault, OrchestrationError, Orchestrator, OrchestratorSettings, SagaBook as _,
        SagaDefinition, SagaId, SqlSagaLog, Step, StepContext, StepDatabase, StepHandler, Work,
        book::{ByHand, by_hand},
    },
    store::AnyPool,
};
use barid_tests::{
    Process, TestDatabase, eventually, sql,
    steps::{Tills, Transfer, patient},
};
use serde_json::Value;
use tokio::{process::Command, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::LONG;

fn transfer(account: i64) -> Transfer {
    Transfer { account, fails: None }
}

/// Nobody tells the others that the process is dead: they wait until its time is over, by the clock of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_saga_of_a_dead_process_is_left_alone_until_its_time_is_over() {
    let (home, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let urls = [home.url.as_str(), other.url.as_str()];
    Tills::create(urls, 1).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga-steps"));
    let arguments = ["run", "transfer", "0", "-", urls[0], urls[1]];
    let mut process = Process::start(command.args(arguments).env("BARID_CRASH_AT", "in act credit"));
    process.ended(LONG).await;
    let left = "SELECT CAST(extract(epoch from lease_until-now())*1000 AS bigint) FROM orchestration";
    let left = sql::number(&tills.pools[0], left).await.unwrap();
    assert!(left > 1_000, "it is kept for the time of its step: {left} ms");
    let orchestrator = tills.orchestrator(patient()).unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(200), orchestrator.finish(Tills::id(0))).await;
    assert!(waits.is_err(), "somebody went on too early");
    // A second of its time is left.
    let shorten = "UPDATE orchestration SET lease_until=now()+interval '1 second'";
    sql::execute(&tills.pools[0], shorten).await.unwrap();
    let ended = tokio::time::timeout(LONG, orchestrator.finish(Tills::id(0))).await.unwrap().unwrap();
    assert_eq!(ended, Ended::Completed);
    tills.check(0, &ended).await;
    tills.close().await;
}

/// Work that begins when it is let.
struct Gated<W> {
    inner: W,
    arrived: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    said: Arc<Mutex<Vec<String>>>,
}

impl<W: Work<Transfer>> Work<Transfer> for Gated<W> {}

#[async_trait]
impl<W: StepHandler> StepHandler for Gated<W> {
    async fn act(&self, call: &Call) -> Result<Value, Fault> {
        self.arrived.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        let done = self.inner.act(call).await;
        self.said.lock().unwrap().push(format!("{done:?}"));
        done
    }

    async fn compensate(&self, call: &Call) -> Result<(), Fault> {
        self.inner.compensate(call).await
    }

    async fn settle(&self, call: &Call) -> Result<Option<Value>, Fault> {
        self.inner.settle(call).await
    }

    async fn forget(&self, saga: SagaId, step: &str) -> barid::Result<()> {
        self.inner.forget(saga, step).await
    }

    fn can(&self) -> Abilities {
        self.inner.can()
    }
}

/// A process stands still in the middle of a step, loses its turn, and comes back when the saga was undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_that_comes_after_its_compensation_is_refused() {
    let tills = [TestDatabase::postgres().await, TestDatabase::postgres().await];
    let urls = [tills[0].url.as_str(), tills[1].url.as_str()];
    Tills::create(urls, 1).await.unwrap();
    let others = Tills::open(urls).await.unwrap();
    let (arrived, gate, said) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::default());
    let slow = slow(
        &others,
        Gated { inner: (), arrived: arrived.clone(), gate: gate.clone(), said: Arc::clone(&said) },
    );
    let saga = others.saga("transfer", &Transfer { account: 0, fails: Some("debit".to_owned()) }).unwrap();
    slow.start(&saga).await.unwrap();
    let (orchestrator, id) = (slow.clone(), saga.id());
    let late = tokio::spawn(async move { orchestrator.finish(id).await });
    arrived.acquire().await.unwrap().forget();

    others.release(0).await;
    // The step is in doubt, and the data says that it fails for good: it is undone, without ever having been done.
    let orchestrator = others.orchestrator(patient()).unwrap();
    let ended = tokio::time::timeout(LONG, orchestrator.finish(id)).await.unwrap().unwrap();
    assert!(
        matches!(&ended, Ended::Compensated { reason } if reason.contains("debit is not possible")),
        "{ended:?}"
    );
    gate.add_permits(1);
    assert_eq!(late.await.unwrap().unwrap(), ended, "who comes late finds how it ended");
    let said = said.lock().unwrap().join(" ");
    assert!(said.contains("Refused"), "{said}");
    others.check(0, &ended).await;
    let epoch = sql::number(&others.pools[0], "SELECT epoch FROM orchestration").await.unwrap();
    assert_eq!(epoch, 2, "each of the two had one turn");
    others.close().await;
}

/// An orchestrator whose debit waits at a gate.
fn slow(tills: &Tills, gated: Gated<()>) -> Orchestrator {
    let [AnyPool::Postgres(from), AnyPool::Postgres(_)] = &tills.pools else { unreachable!() };
    let work = StepDatabase::new(from.clone()).work(|_: StepContext<Transfer>, db| {
        Box::pin(async move {
            sqlx::query("UPDATE account SET balance=balance-10 WHERE id=0").execute(&mut *db).await?;
            Ok(())
        })
    });
    let work = work.undo(|_, _| Box::pin(async { Err(Error::new("not by this process")) }));
    let Gated { arrived, gate, said, .. } = gated;
    let debit = Gated { inner: work, arrived, gate, said };
    let other = |name: &str| {
        let work = StepDatabase::new(from.clone()).work(|_: StepContext<Transfer>, _| {
            Box::pin(async { Err::<(), _>(Error::new("not by this process")) })
        });
        Step::new(name, work)
    };
    let definition = SagaDefinition::new("transfer", 1)
        .step(Step::new("debit", debit))
        .step(other("credit"))
        .step(other("record"));
    Orchestrator::builder(SqlSagaLog::new(from.clone())).saga(&definition).build().unwrap()
}

/// Two processes serve one log, and one of them is killed in the middle; everything is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_what_is_due() {
    const SAGAS: i64 = 24;
    let (home, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let urls = [home.url.as_str(), other.url.as_str()];
    Tills::create(urls, SAGAS).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    let orchestrator = tills.orchestrator(patient()).unwrap();
    for account in 0..SAGAS {
        let fails = (account % 3 == 2).then(|| "record".to_owned());
        orchestrator.start(&tills.saga("transfer", &Transfer { account, fails }).unwrap()).await.unwrap();
    }
    let serve = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-steps"));
        Process::start(command.arg("serve").args(urls))
    };
    let (first, second) = (serve(), serve());
    let over = "SELECT count(*) FROM orchestration WHERE finished_at IS NOT NULL";
    eventually(LONG, "some are over", || async { sql::number(&tills.pools[0], over).await.unwrap() > 2 })
        .await;
    second.kill().await;
    for account in 0..SAGAS {
        let dead = format!(
            "UPDATE orchestration SET lease_until=started_at WHERE finished_at IS NULL AND lease_until>now() AND id='{}' \
             AND updated_at<now()-interval '2 seconds'",
            Tills::id(account)
        );
        eventually(LONG, &format!("saga {account} is over"), || async {
            sql::execute(&tills.pools[0], &dead).await.unwrap();
            let over = format!("{over} AND id='{}'", Tills::id(account));
            sql::number(&tills.pools[0], &over).await.unwrap() == 1
        })
        .await;
        let ended = orchestrator.finish(Tills::id(account)).await.unwrap();
        assert_eq!(ended == Ended::Completed, account % 3 != 2, "account {account}: {ended:?}");
        tills.check(account, &ended).await;
    }
    drop(first);
    tills.close().await;
}

/// What cannot be undone stops nothing else, is told to somebody, and waits for a human.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_undone_waits_for_a_human() {
    let (home, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let urls = [home.url.as_str(), other.url.as_str()];
    Tills::create(urls, 2).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    for account in 0..2 {
        let broken = format!("INSERT INTO broken(what)VALUES('undone credit {account}')");
        sql::execute(&tills.pools[1], &broken).await.unwrap();
    }
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&alerts);
    let on_alert = Arc::new(move |id: SagaId, why: &str| told.lock().unwrap().push((id, why.to_owned())));
    let settings = OrchestratorSettings { on_alert: Some(on_alert), ..patient() };
    let orchestrator = tills.orchestrator(settings).unwrap();
    for account in 0..2 {
        let fails = Some("record".to_owned());
        let saga = tills.saga("transfer", &Transfer { account, fails }).unwrap();
        let ended = orchestrator.execute(&saga).await.unwrap();
        let Ended::NeedsHelp { reason } = ended else { panic!("{ended:?}") };
        assert!(
            reason.contains("record is not possible") && reason.contains("undone credit is broken"),
            "{reason}"
        );
        assert_eq!(tills.effects(account, "debit", "undone").await, 1, "what could be undone was");
    }
    assert_eq!(alerts.lock().unwrap().len(), 2);
    let AnyPool::Postgres(pool) = &tills.pools[0] else { unreachable!() };
    let (book, ann) = (SqlSagaLog::new(pool.clone()), Principal::new("ann"));
    let detail = book.show(Tills::id(0), 10).await.unwrap().unwrap();
    assert_eq!(
        (detail.saga.status.as_str(), detail.steps[1].compensations),
        ("requires_manual_intervention", 3)
    );

    let skip = ByHand::Skip("debit".to_owned());
    let refused = by_hand(&book, Tills::id(0), &skip, &ann, "why not", false).await.unwrap_err();
    assert!(matches!(&refused, OrchestrationError::Refused { .. }), "{refused}");
    sql::execute(&tills.pools[1], "DELETE FROM broken").await.unwrap();
    by_hand(&book, Tills::id(0), &ByHand::Retry, &ann, "it is mended", false).await.unwrap();
    let ended = orchestrator.finish(Tills::id(0)).await.unwrap();
    assert!(matches!(ended, Ended::Compensated { .. }), "{ended:?}");
    tills.check(0, &ended).await;

    let undone = "UPDATE account SET balance=balance-10 WHERE id=1";
    sql::execute(&tills.pools[1], undone).await.unwrap();
    let skip = ByHand::Skip("credit".to_owned());
    by_hand(&book, Tills::id(1), &skip, &ann, "undone by hand", false).await.unwrap();
    let ended = orchestrator.finish(Tills::id(1)).await.unwrap();
    assert!(matches!(ended, Ended::Compensated { .. }), "{ended:?}");
    let detail = book.show(Tills::id(1), 10).await.unwrap().unwrap();
    let entry = &detail.audit[0];
    assert_eq!(
        (entry.principal.as_str(), entry.action.as_str(), entry.reason.as_str()),
        ("ann", "skip saga step credit", "undone by hand")
    );
    tills.close().await;
}

/// A process that is told to stop begins no further step, and the next one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_stop_hands_its_sagas_on() {
    let (home, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let urls = [home.url.as_str(), other.url.as_str()];
    Tills::create(urls, 1).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let gated = Gated { inner: (), arrived: arrived.clone(), gate: gate.clone(), said: Arc::default() };
    let (slow, stop) = (slow(&tills, gated), CancellationToken::new());
    slow.start(&tills.saga("transfer", &transfer(0)).unwrap()).await.unwrap();
    let serving = tokio::spawn({
        let (slow, stop) = (slow.clone(), stop.clone());
        async move { slow.run_until(stop).await }
    });
    arrived.acquire().await.unwrap().forget();
    let mut draining = std::pin::pin!(slow.drain());
    assert!(futures::poll!(&mut draining).is_pending(), "it waits for the attempt that runs");
    gate.add_permits(1);
    tokio::time::timeout(LONG, draining).await.unwrap();
    stop.cancel();
    tokio::time::timeout(LONG, serving).await.unwrap().unwrap();
    let AnyPool::Postgres(pool) = &tills.pools[0] else { unreachable!() };
    let detail = SqlSagaLog::new(pool.clone()).show(Tills::id(0), 0).await.unwrap().unwrap();
    let statuses: Vec<_> = detail.steps.iter().map(|step| step.status.to_string()).collect();
    assert_eq!((statuses.join(" ").as_str(), detail.saga.owner), ("done pending pending", None));
    let orchestrator = tills.orchestrator(patient()).unwrap();
    assert_eq!(orchestrator.finish(Tills::id(0)).await.unwrap(), Ended::Completed);
    tills.close().await;
}
