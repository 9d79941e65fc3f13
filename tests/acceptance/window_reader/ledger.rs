//! The database of one test, what was committed in it, and what a reader delivered.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use barid::store::{AnyPool, schema};
use barid_tests::database::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Postgres, Row};
use uuid::Uuid;

/// Keys that the random writers share.
pub(crate) const KEYS: i64 = 40;

/// A message as writers make it and readers see it: the `version`-th of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: Uuid,
    pub(crate) key: i64,
    pub(crate) version: i64,
    /// A publisher that takes its time with this one: see `director::backlog`.
    pub(crate) slow: bool,
}

impl Message {
    pub(crate) fn payload(&self) -> String {
        format!("{}{}", self.version, if self.slow { " slow" } else { "" })
    }

    pub(crate) fn parse(id: Uuid, key: &str, payload: &[u8]) -> Self {
        let text = std::str::from_utf8(payload).unwrap();
        let (version, slow) = text.split_once(' ').map_or((text, false), |(version, _)| (version, true));
        Self { id, key: key.parse().unwrap(), version: version.parse().unwrap(), slow }
    }
}

/// What a reader delivered, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Message>>>);

impl Seen {
    pub(crate) fn push(&self, message: Message) {
        self.0.lock().unwrap().push(message);
    }

    pub(crate) fn all(&self) -> Vec<Message> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn has(&self, key: i64, version: i64) -> bool {
        self.0.lock().unwrap().iter().rev().any(|message| message.key == key && message.version == version)
    }
}

/// A database with the outbox, the aggregates that the keys stand for, and a ledger of what was committed.
#[derive(Debug)]
pub(crate) struct Arena {
    database: TestDatabase<Postgres>,
    pub(crate) rolled_back: Arc<AtomicUsize>,
}

/// What a reader did to what was committed.
#[derive(Debug)]
#[allow(dead_code)] // printed
pub(crate) struct Comparison {
    pub(crate) committed: usize,
    pub(crate) rolled_back: usize,
    pub(crate) delivered: usize,
    pub(crate) lost: usize,
    /// Delivered for the first time after a later one of the key.
    pub(crate) inverted: usize,
    pub(crate) repeated: usize,
    pub(crate) phantom: usize,
}

impl Arena {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::postgres().await;
        schema::apply(&AnyPool::Postgres(database.pool.clone())).await.unwrap();
        let tables = "CREATE TABLE aggregate (key bigint PRIMARY KEY, version bigint NOT NULL);
            CREATE TABLE ledger (id uuid NOT NULL, key bigint NOT NULL, version bigint NOT NULL);";
        database.pool.execute(sqlx::raw_sql(tables)).await.unwrap();
        let keys =
            AssertSqlSafe(format!("INSERT INTO aggregate SELECT k, 0 FROM generate_series(0, {KEYS} - 1) k"));
        database.pool.execute(sqlx::raw_sql(keys)).await.unwrap();
        Self { database, rolled_back: Arc::default() }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    pub(crate) fn url(&self) -> &str {
        &self.database.url
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.database.url).await.unwrap()
    }

    pub(crate) async fn close(self) {
        self.database.drop_now().await;
    }

    pub(crate) async fn compare(&self, seen: &Seen) -> Comparison {
        let rows = sqlx::query("SELECT id FROM ledger").fetch_all(self.pool()).await.unwrap();
        let committed: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let seen = seen.all();
        let mut result = Comparison {
            committed: committed.len(),
            rolled_back: self.rolled_back.load(Ordering::Relaxed),
            delivered: seen.len(),
            lost: 0,
            inverted: 0,
            repeated: 0,
            phantom: 0,
        };
        let (mut known, mut newest) = (HashSet::new(), HashMap::new());
        for message in seen.iter() {
            if !known.insert(message.id) {
                result.repeated += 1;
                continue;
            }
            result.phantom += usize::from(!committed.contains(&message.id));
            let newest = newest.entry(message.key).or_insert(message.version);
            result.inverted += usize::from(message.version < *newest);
            *newest = message.version.max(*newest);
        }
        result.lost = committed.difference(&known).count();
        result
    }
}

/// Locks the aggregate of `key` and raises its version: what makes the writers of a key take turns.
pub(crate) async fn lock_and_raise(db: &mut PgConnection, key: i64) -> i64 {
    sqlx::query_scalar("UPDATE aggregate SET version = version + 1 WHERE key = $1 RETURNING version")
        .bind(key)
        .fetch_one(db)
        .await
        .unwrap()
}

/// The outbox row and its entry in the ledger; both are there after the commit or neither is.
pub(crate) async fn emit(db: &mut PgConnection, key: i64, version: i64, slow: bool) {
    let message = Message { id: Uuid::now_v7(), key, version, slow };
    sqlx::query("INSERT INTO ledger (id, key, version) VALUES ($1, $2, $3)")
        .bind(message.id)
        .bind(key)
        .bind(version)
        .execute(&mut *db)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         VALUES ($1, 'topic:stress', 'stress', $2, 'stress', $3)",
    )
    .bind(message.id)
    .bind(key.to_string())
    .bind(message.payload().into_bytes())
    .execute(db)
    .await
    .unwrap();
}
