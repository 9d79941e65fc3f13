//! Event stores and units of work in distributed transactions: all of them or none, and what they say when they cannot.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::sync::Arc;

use barid::{
    Error, EventStore, Outgoing,
    distributed::{
        BranchId, Coordinator, DistributedError, DistributedUnitOfWork, EventBranch, EventStoreResource, Gid,
        ParticipantId, Resource, ResourceId, RmError, Settings, SqlBranch, SqlDecisionLog, SqlHome,
        SqlResource, UnitOfWorkParticipant, core::Decision,
    },
    event_store::{EventStoreError, Expected, NewEvent, StagedAppend, StreamName},
    store::{AnyPool, schema},
};
use barid_tests::{
    Proxy, TestDatabase, eventually,
    transfer::{number, run},
};
use bytes::Bytes;
use sqlx::{MySql, Postgres, Sqlite, raw_sql};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn of(name: &str, expected: Expected) -> StagedAppend {
    StagedAppend::new(stream(name), expected).event(happened())
}

fn happened() -> NewEvent {
    NewEvent::raw("things.happened", "{}")
}

fn name(name: &str) -> ResourceId {
    ResourceId::new(name).unwrap()
}

/// A shop: users at home on PostgreSQL, orders on another PostgreSQL, events staged on MariaDB and on SQLite.
struct Shop {
    coordinator: Coordinator,
    log: Arc<SqlDecisionLog<Postgres>>,
    orders: Arc<SqlResource<Postgres>>,
    audit: Arc<EventStoreResource<MySql>>,
    stock: Arc<EventStoreResource<Sqlite>>,
    users_db: TestDatabase<Postgres>,
    orders_db: TestDatabase<Postgres>,
    audit_db: TestDatabase<MySql>,
    stock_db: TestDatabase<Sqlite>,
}

/// One transaction in it.
struct Order {
    unit: DistributedUnitOfWork,
    home: SqlHome<Postgres>,
    orders: UnitOfWorkParticipant<Postgres>,
    audit: ParticipantId,
    stock: ParticipantId,
}

impl Shop {
    async fn open() -> Self {
        let (users_db, orders_db) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
        let (audit_db, stock_db) = (TestDatabase::mariadb().await, TestDatabase::sqlite().await);
        for pool in [
            AnyPool::from(users_db.pool.clone()),
            AnyPool::from(orders_db.pool.clone()),
            AnyPool::from(audit_db.pool.clone()),
            AnyPool::from(stock_db.pool.clone()),
        ] {
            schema::apply(&pool).await.unwrap();
            run(&pool, "CREATE TABLE t(id BIGINT PRIMARY KEY)").await.unwrap();
        }
        let log = Arc::new(SqlDecisionLog::new(users_db.pool.clone()));
        let orders = SqlResource::new(name("orders"), orders_db.pool.clone());
        let audit = EventStoreResource::new(name("audit"), EventStore::new(audit_db.pool.clone()));
        let stock = EventStoreResource::new(name("stock"), EventStore::new(stock_db.pool.clone()));
        let resources: [Arc<dyn Resource>; 3] = [orders.clone(), audit.clone(), stock.clone()];
        let coordinator = Coordinator::connect(log.clone(), resources, Settings::default()).await.unwrap();
        Self { coordinator, log, orders, audit, stock, users_db, orders_db, audit_db, stock_db }
    }

    async fn order(&self) -> Order {
        let mut unit = DistributedUnitOfWork::new(&self.coordinator);
        let (home, orders) = (SqlHome::new(&self.log), UnitOfWorkParticipant::new(&self.orders));
        unit.register_home(home.clone()).unwrap();
        unit.register_unit_of_work("orders", orders.clone()).unwrap();
        let audit = unit.register_event_store("audit", self.audit.participant()).unwrap();
        let stock = unit.register_event_store("it's the 'stock' of 100%_", self.stock.participant()).unwrap();
        unit.begin().await.unwrap();
        Order { unit, home, orders, audit, stock }
    }

    /// How much of an order is there, counted in every database, and how many orders are under way.
    async fn found(&self, id: i64) -> [i64; 7] {
        let (users, orders) =
            (AnyPool::from(self.users_db.pool.clone()), AnyPool::from(self.orders_db.pool.clone()));
        let version = |of: u64| i64::try_from(of).unwrap();
        let home = EventStore::new(self.users_db.pool.clone()).version(&stream("user")).await.unwrap();
        let audit = EventStore::new(self.audit_db.pool.clone()).version(&stream("audit")).await.unwrap();
        let stock = EventStore::new(self.stock_db.pool.clone()).version(&stream("stock")).await.unwrap();
        [
            number(&users, &format!("SELECT count(*) FROM t WHERE id={id}")).await,
            number(&orders, &format!("SELECT count(*) FROM t WHERE id={id}")).await,
            number(&orders, &format!("SELECT count(*) FROM outbox WHERE aggregateid='{id}'")).await,
            version(home),
            version(audit),
            version(stock),
            number(&users, "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL").await,
        ]
    }
}

impl Order {
    /// A user and an order, a message about it, an event at home and two in each store.
    async fn place(&self, id: i64, users: EventStore<Postgres>) -> Result<(), Error> {
        {
            let mut db = self.home.connection().await?;
            sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id).execute(&mut *db).await?;
            users.append_in(&mut db, &stream("user"), Expected::Any, [happened()]).await?;
        }
        let insert = sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id);
        self.orders.work(async |db| Ok(drop(insert.execute(db).await?))).await?;
        self.orders.publish(Outgoing::raw("orders.placed", Bytes::from_static(b"{}")).key(id)).await?;
        self.unit.add_events_to_participant(self.audit, of("audit", Expected::Any)).await?;
        self.unit.add_events_to_participant(self.audit, of("audit", Expected::Any)).await?;
        self.unit.add_events_to_participant(self.stock, of("stock", Expected::Any).event(happened())).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_everywhere_or_nowhere() {
    let shop = Shop::open().await;
    let users = EventStore::new(shop.users_db.pool.clone());
    let order = shop.order().await;
    order.place(1, users.clone()).await.unwrap();
    let report = order.unit.commit().await.unwrap();
    assert!(report.pending.is_empty());
    assert_eq!(shop.found(1).await, [1, 1, 1, 1, 2, 2, 0]);
    let kinds: Vec<_> =
        order.unit.status().participants.into_values().map(|one| (one.resource_type, one.status)).collect();
    let committed = |kind: &str| (kind.to_owned(), "committed");
    assert_eq!(kinds, [committed("unit_of_work"), committed("event_store"), committed("event_store")]);

    // Somebody else appends meanwhile: what was expected is found wrong when everything is asked to prepare.
    let order = shop.order().await;
    order.place(2, users.clone()).await.unwrap();
    order.unit.add_events_to_participant(order.stock, of("other", Expected::NoStream)).await.unwrap();
    EventStore::new(shop.stock_db.pool.clone())
        .append(&stream("other"), Expected::NoStream, [happened()])
        .await
        .unwrap();
    let aborted = order.unit.commit().await.unwrap_err();
    let said = aborted.to_string();
    assert!(matches!(aborted, DistributedError::Aborted { .. }), "{said}");
    assert!(said.contains("it's the 'stock' of 100%_") && said.contains("somebody else appended"), "{said}");
    assert_eq!(shop.found(2).await, [0, 0, 0, 1, 2, 2, 0]);

    // Rolled back by hand, and by being dropped.
    for id in [3, 4] {
        let order = shop.order().await;
        order.place(id, users.clone()).await.unwrap();
        if id == 3 {
            assert!(order.unit.rollback_all().await.unwrap());
        }
        drop(order);
        shop.coordinator.drain().await;
        assert_eq!(shop.found(id).await, [0, 0, 0, 1, 2, 2, 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_in_between_loses() {
    let shop = Shop::open().await;
    let order = shop.order().await;
    order.place(1, EventStore::new(shop.users_db.pool.clone())).await.unwrap();
    assert!(order.unit.prepare_all().await.unwrap());
    let audit = EventStore::new(shop.audit_db.pool.clone());
    for expected in [Expected::Any, Expected::NoStream] {
        let lost = audit.append(&stream("audit"), expected, [happened()]).await.unwrap_err();
        assert!(matches!(lost, EventStoreError::Reserved { .. }), "{lost}");
    }
    // Another transaction loses, too, and says who was in its way.
    let second = shop.order().await;
    second.unit.add_events_to_participant(second.audit, of("audit", Expected::Any)).await.unwrap();
    let said = second.unit.commit().await.unwrap_err().to_string();
    assert!(
        said.contains("reserved by transaction") && said.contains(&order.unit.transaction_id().to_string()),
        "{said}"
    );
    assert!(order.unit.commit_all().await.unwrap());
    assert_eq!(shop.found(1).await, [1, 1, 1, 1, 2, 2, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_not_left_out() {
    let shop = Shop::open().await;
    // Of a store, a conflict of what is expected of one stream in one transaction; the caller goes on all the same.
    let order = shop.order().await;
    order.place(1, EventStore::new(shop.users_db.pool.clone())).await.unwrap();
    let refused = order.unit.add_events_to_participant(order.stock, of("stock", Expected::NoStream)).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, DistributedError::Events { cause: EventStoreError::Conflict { .. }, .. }),
        "{refused}"
    );
    let unknown = order.unit.add_events_to_participant(ParticipantId(9), of("a", Expected::Any)).await;
    assert!(matches!(unknown.unwrap_err(), DistributedError::UnknownParticipant(9)));
    let wrong = order.unit.add_events_to_participant(ParticipantId(0), of("a", Expected::Any)).await;
    let wrong = wrong.unwrap_err();
    assert!(matches!(&wrong, DistributedError::WrongParticipantKind { .. }), "{wrong}");
    assert!(
        wrong.to_string().contains("\"orders\"") && wrong.to_string().contains("unit_of_work"),
        "{wrong}"
    );
    assert!(order.unit.commit().await.is_err());
    let late = order.unit.add_events_to_participant(order.stock, of("stock", Expected::Any)).await;
    assert!(matches!(late.unwrap_err(), DistributedError::Events { cause: EventStoreError::NotOpen, .. }));
    assert_eq!(shop.found(1).await, [0; 7]);

    // In a branch the conflict shows at once, and rows of the branch go with the events.
    let store = EventStore::new(shop.orders_db.pool.clone());
    store.append(&stream("s"), Expected::NoStream, [happened()]).await.unwrap();
    for (expected, commits) in [(Expected::NoStream, false), (Expected::Version(1), true)] {
        let (branch, mut unit) = (shop.orders.branch(), DistributedUnitOfWork::new(&shop.coordinator));
        let events = branch.events(store.clone());
        let early = events.add_events(of("s", Expected::Any)).await.unwrap_err();
        assert!(matches!(early, EventStoreError::NotOpen), "{early}");
        let id = unit.register_event_store("events", events).unwrap();
        unit.register_home(SqlHome::new(&shop.log)).unwrap();
        unit.begin().await.unwrap();
        write(&branch, 7).await;
        let added = unit.add_events_to_participant(id, of("s", expected)).await;
        assert_eq!(added.is_ok(), commits, "{added:?}");
        let ended = unit.commit().await;
        assert_eq!(ended.is_ok(), commits, "{ended:?}");
        if let Err(error) = ended {
            assert!(error.to_string().contains("stream \"s\" is at version 1"), "{error}");
        }
        assert_eq!(store.version(&stream("s")).await.unwrap(), 1 + u64::from(commits));
        assert_eq!(shop.found(7).await[1], i64::from(commits));
    }
}

async fn write(branch: &SqlBranch<Postgres>, id: i64) {
    let mut db = branch.connection().await.unwrap();
    sqlx::query("INSERT INTO t(id)VALUES($1)").bind(id).execute(&mut *db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_did_not_end_well_is_not_committed() {
    let shop = Shop::open().await;
    for (failing, why) in
        [(true, "work in the unit failed: no stock"), (false, "was interrupted before its end")]
    {
        let order = shop.order().await;
        order.place(1, EventStore::new(shop.users_db.pool.clone())).await.unwrap();
        if failing {
            let failed: Result<(), Error> = order.orders.work(async |_| Err(Error::new("no stock"))).await;
            assert!(failed.unwrap_err().to_string().contains("no stock"));
        } else {
            let (begun, waited) = tokio::sync::oneshot::channel();
            let hanging = order.orders.work(async |db| {
                sqlx::Executor::execute(&mut *db, raw_sql("INSERT INTO t(id)VALUES(8)")).await?;
                begun.send(()).unwrap();
                std::future::pending::<Result<(), Error>>().await
            });
            tokio::select! {
                _ = hanging => unreachable!("it hangs"),
                said = waited => said.unwrap(),
            }
        }
        let aborted = order.unit.commit().await.unwrap_err().to_string();
        assert!(aborted.contains(why) && aborted.contains("\"orders\""), "{aborted}");
        assert_eq!(shop.found(1).await, [0; 7]);
        assert_eq!(shop.found(8).await, [0; 7]);
    }
}

/// Retryable, unknown, configuration: what the event store says when it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_has_its_kind() {
    let database = TestDatabase::postgres().await;
    let any = AnyPool::from(database.pool.clone());
    schema::apply(&any).await.unwrap();
    let (proxy, through) = Proxy::in_front_of(&database.url).await;
    let AnyPool::Postgres(pool) = AnyPool::connect(&through, 2).await.unwrap() else {
        panic!("a PostgreSQL")
    };
    let store = EventStore::new(pool.clone());
    let resource = EventStoreResource::new(name("events"), store);
    let coordinator = barid::distributed::CoordinatorId { id: uuid::Uuid::now_v7(), epoch: 1 };
    let branch = || BranchId { coordinator, gid: Gid::fresh(), ordinal: 0 };

    // The answer to COMMIT is lost: it may have been done, and it was.
    let tombstone = branch();
    proxy.cut_after_request(b"RELEASE SAVEPOINT barid_unit");
    let said = resource.finish(&tombstone, Decision::Abort).await.unwrap_err();
    assert!(matches!(&said, RmError::Unknown(text) if text.contains("nobody knows")), "{said:?}");
    assert_eq!(proxy.fired().len(), 1);
    let count = "SELECT count(*) FROM event_transaction WHERE state='aborted'";
    assert_eq!(number(&any, count).await, 1);
    // Before COMMIT it was not done.
    proxy.cut_after_request(b"SELECT state FROM event_transaction");
    let said = resource.finish(&branch(), Decision::Abort).await.unwrap_err();
    assert!(matches!(&said, RmError::Retryable(_)), "{said:?}");
    assert_eq!((proxy.fired().len(), number(&any, count).await), (2, 1));
    // Nobody has the right: somebody has to change something, and the text says what.
    let gone = "ALTER TABLE event_transaction RENAME TO event_transaction_away";
    run(&any, gone).await.unwrap();
    let said = resource.finish(&branch(), Decision::Abort).await.unwrap_err();
    assert!(matches!(&said, RmError::Config(text) if text.contains("schema")), "{said:?}");
    let looked = resource.prepared(coordinator).await.unwrap_err();
    assert!(matches!(&looked, RmError::Config(_)), "a failed look is no empty one: {looked:?}");
    run(&any, "ALTER TABLE event_transaction_away RENAME TO event_transaction").await.unwrap();
    // The server cannot be reached.
    drop(proxy);
    eventually(LONG, "the connections are gone", || async {
        matches!(resource.finish(&branch(), Decision::Commit).await, Err(RmError::Retryable(_)))
    })
    .await;
    assert!(!resource.health().await.healthy);
    pool.close().await;
}
