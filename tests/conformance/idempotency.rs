//! The contract of idempotency on every database: records, in-progress, stored replies, results, high-water marks, retention.
//!
//! There is no implementation in memory: a record that does not commit with the handlers' work proves nothing.

#![allow(clippy::unwrap_used)] // a test

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Context, DuplicatePolicy, Error, Headers, Message, MessageResult, Problem, Request,
    Result, SqlIdempotency, SqlOutbox, SqlQueue, SqlUnitOfWork, headers, limits,
    store::{AnyPool, schema},
    transport::{Delivery, Repeat, Settlement, TransportError, memory::Memory},
};
use barid_tests::eventually;
use databases::{Fresh, KINDS, Kind};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[allow(dead_code)] // other suites need more of it
mod databases;

const SOON: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "prices.get")]
struct GetPrice {
    sku: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "prices.price")]
struct Price {
    cents: usize,
}

impl Request for GetPrice {
    type Reply = Price;
}

/// How often a handler ran.
#[derive(Clone, Default)]
struct Ran(Arc<AtomicUsize>);

async fn get_price(request: GetPrice, cx: Context) -> Result<Price> {
    let ran = cx.state::<Ran>().unwrap().0.fetch_add(1, SeqCst) + 1;
    match request.sku.as_str() {
        "huge" => Ok(Price { cents: limits::REPLY_BYTES_MAX }),
        "gone" => {
            let gone = Problem::new("The article is gone").status(410);
            Err(Error::from(gone).with(barid::Disposition::DeadLetter))
        }
        _ => Ok(Price { cents: ran }),
    }
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("nack");
        Ok(())
    }
}

/// One database with its schema, and a bus on it.
struct Subject {
    kind: Kind,
    pool: AnyPool,
    ran: Ran,
    told: Told,
    _database: Fresh,
}

impl Subject {
    async fn new(kind: Kind) -> Self {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        Self { kind, pool, ran: Ran::default(), told: Told::default(), _database: database }
    }

    fn builder(&self, name: &str) -> BusBuilder {
        let bus = Bus::builder(name).state(self.ran.clone()).answer(get_price);
        let bus = match self.pool.clone() {
            AnyPool::Postgres(pool) => {
                bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
            }
            AnyPool::MySql(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
            AnyPool::Sqlite(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
            _ => unreachable!("there are three databases"),
        };
        bus.outbox(SqlOutbox::new())
    }

    fn bus(&self, idempotency: SqlIdempotency) -> Bus {
        self.builder("prices").transport(Memory::new()).idempotency(idempotency).build().unwrap()
    }

    fn delivery(&self, id: Uuid, sku: &str, more: &[(&str, &str)]) -> Delivery {
        let mut all =
            Headers::from_iter([(headers::ID, id.to_string()), (headers::TYPE, GetPrice::NAME.to_owned())]);
        more.iter().for_each(|(name, value)| all.set(*name, *value));
        Delivery {
            headers: all,
            body: serde_json::to_vec(&GetPrice { sku: sku.to_owned() }).unwrap().into(),
            source: "prices".to_owned(),
            repeat: Repeat::First,
            settlement: Box::new(self.told.clone()),
        }
    }

    fn ran(&self) -> usize {
        self.ran.0.load(SeqCst)
    }

    async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            _ => unreachable!("there are three databases"),
        }
        .unwrap()
    }

    async fn run(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            AnyPool::MySql(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            AnyPool::Sqlite(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            _ => unreachable!("there are three databases"),
        }
        .unwrap();
    }

    fn id(&self, id: Uuid) -> String {
        if matches!(self.kind, Kind::Postgres) { format!("'{id}'") } else { format!("X'{}'", id.simple()) }
    }

    /// Records of these ids, `days` old by their column.
    async fn records(&self, ids: &[Uuid], days: u32) {
        let old = match self.kind {
            Kind::Postgres => format!("now()-interval '{days} days'"),
            Kind::MariaDb => format!("UTC_TIMESTAMP(6)-INTERVAL {days} DAY"),
            Kind::Sqlite => format!("CAST((julianday('now')-{days}-2440587.5)*86400000 AS INTEGER)"),
        };
        for ids in ids.chunks(500) {
            let rows: Vec<String> = ids.iter().map(|id| format!("({},'old',{old})", self.id(*id))).collect();
            self.run(&format!(
                "INSERT INTO idempotency(message_id,scope,handled_at)VALUES{}",
                rows.join(",")
            ))
            .await;
        }
    }
}

const ANSWER: &[(&str, &str)] = &[(headers::REPLY_TO, "queue:shop")];

#[tokio::test]
async fn a_fresh_message_is_handled_and_a_duplicate_gets_the_stored_answer_and_no_second_effect() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (bus, id) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        for _ in 0..3 {
            bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        }
        assert_eq!(subject.ran(), 1, "{kind:?}: it was handled again");
        assert_eq!(*subject.told.0.lock().unwrap(), ["ack"; 3]);
        assert_eq!(
            subject.number("SELECT count(*) FROM outbox").await,
            3,
            "{kind:?}: every delivery is answered"
        );
        let same =
            "SELECT count(DISTINCT id) FROM outbox WHERE destination='queue:shop' AND type='prices.price'";
        assert_eq!(
            subject
                .number(
                    &same.replace("type=", if matches!(kind, Kind::MariaDb) { "`type`=" } else { "type=" })
                )
                .await,
            1,
            "{kind:?}: under one id"
        );
        assert_eq!(
            subject.number("SELECT count(DISTINCT payload) FROM outbox").await,
            1,
            "{kind:?}: with one body"
        );
        // One that nobody asked is not answered.
        bus.handle(subject.delivery(Uuid::now_v7(), "tea", &[])).await.unwrap();
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 3);
        assert_eq!(subject.number("SELECT count(*) FROM idempotency WHERE reply IS NULL").await, 1);
    }
}

#[tokio::test]
async fn invoked_duplicates_run_again_and_keep_the_first_answer() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let invoking = SqlIdempotency::new().duplicates(DuplicatePolicy::Invoke);
        let (bus, skipping, id) = (subject.bus(invoking), subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        for bus in [&bus, &bus, &skipping] {
            bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        }
        assert_eq!(subject.ran(), 2);
        assert_eq!(subject.number("SELECT count(DISTINCT id) FROM outbox").await, 2, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 3, "{kind:?}");
    }
}

#[tokio::test]
async fn an_error_is_an_error_and_leaves_no_record() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (bus, id) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
        // The insert of the record fails, and not because the record is there (W2).
        subject.run("ALTER TABLE idempotency RENAME TO elsewhere").await;
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap_err();
        assert_eq!((subject.ran(), subject.told.0.lock().unwrap().pop()), (0, Some("nack")), "{kind:?}");
        subject.run("ALTER TABLE elsewhere RENAME TO idempotency").await;
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
        assert_eq!(subject.ran(), 1, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 1);
    }
}

#[tokio::test]
async fn results_go_from_accepted_to_succeeded_or_failed() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let bus = subject.bus(SqlIdempotency::new());
        let wanted: &[(&str, &str)] = &[(headers::RESULT, "true")];
        assert_eq!(bus.result(Uuid::now_v7()).await.unwrap(), None);

        let id = bus.submit(GetPrice { sku: "tea".to_owned() }).await.unwrap();
        assert_eq!(bus.result(id).await.unwrap(), Some(MessageResult::Accepted), "{kind:?}");
        assert_eq!(
            subject.number("SELECT count(*) FROM outbox").await,
            1,
            "{kind:?}: it leaves through the outbox"
        );
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        let result = bus.wait_result(id, SOON).await.unwrap().unwrap();
        assert_eq!(bus.decode_result::<Price>(&result).unwrap(), Price { cents: 1 }, "{kind:?}");
        assert_eq!(subject.number("SELECT count(*) FROM outbox").await, 1, "the answer was sent to nobody");
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        assert_eq!(bus.result(id).await.unwrap(), Some(result), "{kind:?}: the duplicate changed it");

        let id = Uuid::now_v7();
        bus.declare().await.unwrap();
        bus.handle(subject.delivery(id, "gone", wanted)).await.unwrap_err();
        let Some(MessageResult::Failed { problem }) = bus.result(id).await.unwrap() else {
            panic!("{kind:?}")
        };
        assert_eq!((problem.title.as_str(), problem.status), ("The article is gone", Some(410)));
        assert_eq!(problem.instance, Some(format!("urn:uuid:{id}")));
        // A dead letter that is replayed and succeeds.
        bus.handle(subject.delivery(id, "tea", wanted)).await.unwrap();
        assert!(matches!(bus.result(id).await.unwrap(), Some(MessageResult::Succeeded { .. })), "{kind:?}");
    }
}

const NUMBER: &str = "x-number";

#[tokio::test]
async fn a_high_water_mark_knows_a_duplicate_by_its_number() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let numbered = || SqlIdempotency::new().high_water_mark(NUMBER);
        let refused = subject.builder("prices").transport(Memory::new()).idempotency(numbered()).build();
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("BRD051"), "{said}");
        let queue = SqlQueue::new(subject.pool.clone());
        let bus = subject.builder("prices").transport(queue).idempotency(numbered()).build().unwrap();
        bus.declare().await.unwrap();
        let handle = async |key: &str, number: &str, sku: &str, expected: usize| {
            let more = [(headers::KEY, key), (NUMBER, number)];
            let handled = bus.handle(subject.delivery(Uuid::now_v7(), sku, &more)).await;
            assert_eq!(subject.ran(), expected, "{kind:?}: {key} {number}");
            handled
        };
        handle("a", "5", "tea", 1).await.unwrap();
        handle("a", "5", "tea", 1).await.unwrap();
        handle("a", "4", "tea", 1).await.unwrap();
        handle("b", "4", "tea", 2).await.unwrap();
        handle("a", "9", "tea", 3).await.unwrap();
        // Rolled back with everything else: only a committed number counts.
        handle("a", "10", "gone", 4).await.unwrap_err();
        handle("a", "10", "tea", 5).await.unwrap();
        handle("a", "10", "tea", 5).await.unwrap();
        handle("a", "ten", "tea", 5).await.unwrap_err();
        assert_eq!(subject.number("SELECT count(*) FROM high_water").await, 2);
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 0);
        // Without a number, by its id.
        let id = Uuid::now_v7();
        for _ in 0..2 {
            bus.handle(subject.delivery(id, "tea", &[(headers::KEY, "a")])).await.unwrap();
        }
        assert_eq!(
            (subject.ran(), subject.number("SELECT count(*) FROM idempotency").await),
            (6, 1),
            "{kind:?}"
        );
    }
}

fn id_of(days_ago: i64) -> Uuid {
    let seconds = barid::clock::now().timestamp() - days_ago * 24 * 60 * 60;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds.unsigned_abs(), 0))
}

fn foreign(n: usize) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes())
}

#[tokio::test]
async fn retention_removes_what_is_old_whatever_its_id_is_and_nothing_else() {
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        let (old, fresh): (Vec<_>, Vec<_>) =
            ((0..2500).map(|_| id_of(30)).collect(), (0..20).map(|_| id_of(3)).collect());
        subject.records(&old, 30).await;
        subject.records(&fresh, 3).await;
        subject.records(&(0..1500).map(foreign).collect::<Vec<_>>(), 30).await;
        subject.records(&(1500..1700).map(foreign).collect::<Vec<_>>(), 3).await;
        let (one, two) = (subject.bus(SqlIdempotency::new()), subject.bus(SqlIdempotency::new()));
        let stop = CancellationToken::new();
        let running = [one, two].map(|bus| {
            let stop = stop.clone();
            tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await })
        });
        eventually(SOON, &format!("{kind:?}: old records are gone"), || async {
            subject.number("SELECT count(*) FROM idempotency").await <= 220
        })
        .await;
        stop.cancel();
        for bus in running {
            bus.await.unwrap().unwrap();
        }
        assert_eq!(subject.number("SELECT count(*) FROM idempotency").await, 220, "{kind:?}");
    }
}

/// What the database would do for a statement of the retention.
async fn plan(subject: &Subject, explained: String) -> String {
    let explained = AssertSqlSafe(explained);
    match &subject.pool {
        AnyPool::Postgres(pool) => {
            let mut connection = pool.acquire().await.unwrap();
            sqlx::raw_sql("SET enable_seqscan=off").execute(&mut *connection).await.unwrap();
            let lines: Vec<String> = sqlx::query_scalar(explained).fetch_all(&mut *connection).await.unwrap();
            lines.join("\n")
        }
        AnyPool::MySql(pool) => {
            let row = sqlx::query(explained).fetch_one(pool).await.unwrap();
            format!("{} {}", row.get::<String, _>("type"), row.get::<String, _>("key"))
        }
        AnyPool::Sqlite(pool) => {
            let rows = sqlx::query(explained).fetch_all(pool).await.unwrap();
            rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
        }
        _ => unreachable!("there are three databases"),
    }
}

#[tokio::test]
async fn retention_never_scans_a_table() {
    use barid::idempotency::{Table, delete, look};
    for kind in KINDS {
        let subject = Subject::new(kind).await;
        subject.records(&(0..3000).map(|_| id_of(30)).collect::<Vec<_>>(), 30).await;
        for table in Table::ALL {
            let statements = match kind {
                Kind::Postgres => [look::<sqlx::Postgres>(table, 1000), delete::<sqlx::Postgres>(table)],
                Kind::MariaDb => [look::<sqlx::MySql>(table, 1000), delete::<sqlx::MySql>(table)],
                Kind::Sqlite => [look::<sqlx::Sqlite>(table, 1000), delete::<sqlx::Sqlite>(table)],
            };
            for statement in statements {
                let mut filled = statement;
                for (n, value) in
                    [subject.id(id_of(60)), subject.id(id_of(7)), "604800000".to_owned()].iter().enumerate()
                {
                    let placeholder = match kind {
                        Kind::Postgres => format!("${}", n + 1),
                        Kind::MariaDb => "?".to_owned(),
                        Kind::Sqlite => format!("?{}", n + 1),
                    };
                    filled = filled.replacen(&placeholder, value, 1);
                }
                let explain = if matches!(kind, Kind::Sqlite) { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
                let plan = plan(&subject, format!("{explain} {filled}")).await;
                let by_key = match kind {
                    Kind::Postgres => plan.contains("Index") && !plan.contains("Seq Scan"),
                    Kind::MariaDb => plan == "range PRIMARY",
                    Kind::Sqlite => plan.contains("SEARCH") && !plan.contains("SCAN"),
                };
                assert!(by_key, "{kind:?}: {filled}\n{plan}");
            }
        }
    }
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_where_the_table_has_them() {
    let subject = Subject::new(Kind::Postgres).await;
    let (bus, before) = (subject.bus(SqlIdempotency::new()), Uuid::now_v7());
    bus.handle(subject.delivery(before, "tea", ANSWER)).await.unwrap();
    subject.run(include_str!("../../migrations/optional/postgres_idempotency_partitions.sql")).await;
    subject
        .run(
            "CREATE TABLE idempotency_20200101 PARTITION OF idempotency
             FOR VALUES FROM ('016f5e66-e800-0000-0000-000000000000') TO ('016f638d-4400-0000-0000-000000000000')",
        )
        .await;
    subject.records(&[foreign(1), "016f5e66-e800-7000-8000-000000000000".parse().unwrap()], 30).await;
    let stop = CancellationToken::new();
    let running = [bus.clone(), subject.bus(SqlIdempotency::new())].map(|bus| {
        let stop = stop.clone();
        tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await })
    });
    let children = "SELECT count(*) FROM pg_inherits WHERE inhparent='idempotency'::regclass";
    eventually(SOON, "three days ahead, the old one gone, old rows gone", || async {
        // low, high, default, and the days ahead; today's rows are in the default partition already.
        subject.number(children).await == 3 + i64::from(limits::PARTITION_DAYS_AHEAD)
            && subject.number("SELECT count(*) FROM pg_class WHERE relname='idempotency_20200101'").await == 0
            && subject.number("SELECT count(*) FROM idempotency").await == 1
    })
    .await;
    let fresh = Uuid::now_v7();
    for id in [before, fresh, fresh] {
        bus.handle(subject.delivery(id, "tea", ANSWER)).await.unwrap();
    }
    assert_eq!(subject.ran(), 2, "records are recognised across the change");
    assert_eq!(subject.number("SELECT count(DISTINCT id) FROM outbox").await, 2);
    stop.cancel();
    for bus in running {
        bus.await.unwrap().unwrap();
    }
}
