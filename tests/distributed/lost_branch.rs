//! MariaDB loses track of a branch that is ended by its name at the moment at which the session ends that has prepared it: it says Ok,
//! ends nothing, and lists the branch no more; its locks stay until a restart, after which it is listed and can be ended.
//!
//! On a server of its own: what it loses would stay in the way of everybody else.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    distributed::{
        Ack, BranchId, Coordinator, CoordinatorId, DecisionLog, Gid, Label, Resource, ResourceId, RmError,
        Settings, SqlDecisionLog, SqlResource, TransactionParticipant, Vote,
        core::{BranchKind, Decision, Protocol},
        log::{BranchRecord, NewTransaction},
    },
    store::{AnyPool, schema},
};
use barid_tests::{
    PrivateServer, TestDatabase, eventually,
    transfer::{number, run},
};
use sqlx::{AssertSqlSafe, Executor, MySql, MySqlPool, mysql::MySqlPoolOptions, raw_sql};

/// Bounds every wait that ends with an event.
const LONG: Duration = Duration::from_secs(120);

/// Many times what is needed: one in ten is lost.
const TRIES: i64 = 2_000;

/// "bard", see `XA RECOVER`.
const FORMAT: u32 = 0x6261_7264;

/// Ends a session, and then names its branch again and again until the server takes it: in the server, where no time passes between.
const AT_ONCE: &str = "CREATE PROCEDURE at_once(IN session BIGINT, IN ends TEXT) BEGIN \
    DECLARE refused, was INT DEFAULT 0; DECLARE CONTINUE HANDLER FOR 1397 SET refused = refused + 1; KILL session; \
    REPEAT SET was = refused; EXECUTE IMMEDIATE ends; UNTIL refused = was END REPEAT; END";

struct Place {
    server: PrivateServer,
    pool: MySqlPool,
    any: AnyPool,
    resource: Arc<SqlResource<MySql>>,
    coordinator: CoordinatorId,
}

/// A branch that is prepared by a session of that number.
struct Prepared {
    branch: BranchId,
    session: i64,
    _kept: Box<dyn TransactionParticipant>,
}

impl Place {
    async fn new(coordinator: CoordinatorId) -> Self {
        let server = PrivateServer::mariadb("").await;
        let mut url = url::Url::parse(&server.url).unwrap();
        MySqlPool::connect(url.as_str()).await.unwrap().execute("CREATE DATABASE branch").await.unwrap();
        url.set_path("branch");
        let pool = MySqlPoolOptions::new().max_connections(40).connect(url.as_str()).await.unwrap();
        let any = AnyPool::from(pool.clone());
        schema::apply(&any).await.unwrap();
        run(&any, "CREATE TABLE t(id BIGINT PRIMARY KEY)").await.unwrap();
        run(&any, AT_ONCE).await.unwrap();
        let resource = SqlResource::new(ResourceId::new("shop").unwrap(), pool.clone());
        Self { server, pool, any, resource, coordinator }
    }

    async fn prepared(&self, gid: Gid, id: i64) -> Prepared {
        let branch = BranchId { coordinator: self.coordinator, gid, ordinal: 0 };
        let participant = self.resource.branch();
        participant.begin(&branch).await.unwrap();
        let mut db = participant.connection().await.unwrap();
        let session =
            sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)").fetch_one(&mut *db).await.unwrap();
        (&mut *db).execute(sqlx::query("INSERT INTO t(id)VALUES(?)").bind(id)).await.unwrap();
        drop(db);
        assert_eq!(participant.prepare(&branch).await.unwrap(), Vote::Prepared);
        Prepared { branch, session, _kept: Box::new(participant) }
    }

    async fn happened(&self, id: i64) -> bool {
        number(&self.any, &format!("SELECT count(*) FROM t WHERE id={id}")).await == 1
    }

    /// Ends the session of a branch and the branch as nobody should. Returns whether it was lost by that.
    async fn loses(&self, prepared: &Prepared, id: i64) -> bool {
        let BranchId { coordinator, gid, ordinal } = prepared.branch;
        let ends = format!("XA COMMIT '{}','{coordinator}.{ordinal}',{FORMAT}", gid.0.simple());
        let call = sqlx::query("CALL at_once(?, ?)").bind(prepared.session).bind(ends);
        self.pool.execute(call).await.unwrap();
        eventually(LONG, "the session is gone", async || {
            let left =
                format!("SELECT count(*) FROM information_schema.processlist WHERE id={}", prepared.session);
            number(&self.any, &left).await == 0
        })
        .await;
        let listed = self.resource.prepared(self.coordinator).await.unwrap();
        assert!(!listed.contains(&prepared.branch), "the server has taken it");
        !self.happened(id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_has_lost_is_told_and_ended_after_its_restart() {
    let home = TestDatabase::postgres().await;
    schema::apply(&AnyPool::from(home.pool.clone())).await.unwrap();
    let log = Arc::new(SqlDecisionLog::new(home.pool.clone()));
    let place = Place::new(log.coordinator().await.unwrap()).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&heard);
    let on_alert = Arc::new(move |_: Gid, what: &str| hook.lock().unwrap().push(what.to_owned()));
    let settings = Settings { on_alert: Some(on_alert), ..Settings::default() };
    let resources = [place.resource.clone() as Arc<dyn Resource>];
    let coordinator = Coordinator::connect(log.clone(), resources, settings).await.unwrap();

    // Decided to commit, its coordinator is gone, and somebody has named the branch too early.
    let mut id = 0;
    let (gid, branch) = loop {
        id += 1;
        assert!(id < TRIES, "this server loses nothing: is it mended in its version?");
        let gid = Gid::fresh();
        let prepared = place.prepared(gid, id).await;
        if place.loses(&prepared, id).await {
            break (gid, prepared.branch);
        }
    };
    let record = BranchRecord {
        name: "shop".to_owned(),
        resource: ResourceId::new("shop").unwrap(),
        resource_type: "mysql".to_owned(),
        kind: BranchKind::TwoPhase,
    };
    let new = NewTransaction {
        gid,
        label: Label::default(),
        name_kept_for: Duration::ZERO,
        protocol: Protocol::TwoPhase,
        home: false,
        deadline: Duration::ZERO,
        branches: vec![record],
        findable: false,
    };
    log.open(&new).await.unwrap();
    assert_eq!(log.decide(gid, Decision::Commit, &[], "a test").await.unwrap(), Decision::Commit);

    for decision in [Decision::Commit, Decision::Abort] {
        let error = place.resource.finish(&branch, decision).await.unwrap_err();
        let told = matches!(&error, RmError::Config(text) if text.contains("Restart the server"));
        assert!(told || decision == Decision::Abort, "{decision:?}: {error:?}");
    }
    let found = coordinator.recover_once().await.unwrap();
    assert_eq!((found.left, found.committed), (1, 0), "{found:?}");
    let told = heard.lock().unwrap().join("\n");
    assert!(told.contains("shop") && told.contains("Restart the server"), "{told:?}");
    let entry = coordinator.show(gid).await.unwrap().unwrap();
    assert_eq!(&*entry.transaction.status, "requires_manual_intervention");
    assert!(!place.happened(id).await);

    place.server.stop().await;
    place.server.start().await;
    eventually(LONG, "recovery commits it", async || {
        coordinator.recover_once().await.unwrap();
        coordinator.show(gid).await.unwrap().unwrap().transaction.status == "committed"
    })
    .await;
    assert!(place.happened(id).await);
    assert!(place.resource.prepared(place.coordinator).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_session_is_killed_is_ended_and_not_lost() {
    const EACH: i64 = 10;
    let place = Arc::new(Place::new(CoordinatorId { id: uuid::Uuid::now_v7(), epoch: 1 }).await);
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let place = Arc::clone(&place);
        tasks.spawn(async move {
            for id in worker * EACH..(worker + 1) * EACH {
                let prepared = place.prepared(Gid::fresh(), id).await;
                let kill = raw_sql(AssertSqlSafe(format!("KILL {}", prepared.session)));
                place.pool.execute(kill).await.unwrap();
                let decision = if id % 2 == 0 { Decision::Commit } else { Decision::Abort };
                let ended = place.resource.finish(&prepared.branch, decision).await;
                assert_eq!(ended, Ok(Ack::Done), "{id}");
                assert_eq!(place.happened(id).await, decision == Decision::Commit, "{id}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let held = "SELECT count(*) FROM information_schema.innodb_trx";
    assert_eq!(number(&place.any, held).await, 0, "no lock is left");
    assert!(place.resource.prepared(place.coordinator).await.unwrap().is_empty());
}
