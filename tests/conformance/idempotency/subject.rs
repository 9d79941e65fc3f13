//! A bus that answers requests, and what it did.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Context, Error, Headers, Message, Problem, Request, Result, SqlIdempotency, SqlOutbox,
    SqlUnitOfWork, headers, limits,
    store::{AnyPool, schema},
    transport::{Delivery, Repeat, Settlement, TransportError, memory::Memory},
};
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::databases::{Fresh, Kind};

pub(crate) const SOON: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "prices.get")]
pub(crate) struct GetPrice {
    pub(crate) sku: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "prices.price")]
pub(crate) struct Price {
    pub(crate) cents: usize,
}

impl Request for GetPrice {
    type Reply = Price;
}

/// How often a handler ran.
#[derive(Clone, Default)]
pub(crate) struct Ran(Arc<AtomicUsize>);

pub(crate) async fn get_price(request: GetPrice, cx: Context) -> Result<Price> {
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
pub(crate) struct Told(pub(crate) Arc<Mutex<Vec<&'static str>>>);

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
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) pool: AnyPool,
    pub(crate) ran: Ran,
    pub(crate) told: Told,
    _database: Fresh,
}

impl Subject {
    pub(crate) async fn new(kind: Kind) -> Self {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        Self { kind, pool, ran: Ran::default(), told: Told::default(), _database: database }
    }

    pub(crate) fn builder(&self, name: &str) -> BusBuilder {
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

    pub(crate) fn bus(&self, idempotency: SqlIdempotency) -> Bus {
        self.builder("prices").transport(Memory::new()).idempotency(idempotency).build().unwrap()
    }

    pub(crate) fn delivery(&self, id: Uuid, sku: &str, more: &[(&str, &str)]) -> Delivery {
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

    pub(crate) fn ran(&self) -> usize {
        self.ran.0.load(SeqCst)
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await,
            _ => unreachable!("there are three databases"),
        }
        .unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            AnyPool::MySql(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            AnyPool::Sqlite(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            _ => unreachable!("there are three databases"),
        }
        .unwrap();
    }

    pub(crate) fn id(&self, id: Uuid) -> String {
        if matches!(self.kind, Kind::Postgres) { format!("'{id}'") } else { format!("X'{}'", id.simple()) }
    }

    /// Records of these ids, `days` old by their column.
    pub(crate) async fn records(&self, ids: &[Uuid], days: u32) {
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

pub(crate) const ANSWER: &[(&str, &str)] = &[(headers::REPLY_TO, "queue:shop")];
