//! Producers that commit rows to an outbox while its database is being broken.
//!
//! Each transaction raises the counter of one key, or of two, and inserts for each a row of the outbox and a row of
//! `load_row` with the same id. Some are rolled back. A producer whose connection breaks opens another one. What a COMMIT
//! without an answer did is found out in the end, by reading `load_row`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barid::Destination;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::dice::Dice;
use crate::outbox::Posted;
use crate::sql::Session;

/// How long a transaction may take before its producer gives its connection up.
const BOUND: Duration = Duration::from_secs(30);
/// After a connection broke.
const PAUSE: Duration = Duration::from_millis(50);

/// What to commit, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// The database, perhaps through something that breaks.
    pub url: String,
    /// Where the messages go.
    pub destination: Destination,
    /// Decides what each producer does.
    pub seed: u64,
    /// Producers, each with a connection.
    pub producers: u64,
    /// Ordering keys, shared by all producers.
    pub keys: u64,
    /// Transactions that are rolled back.
    pub rolled_back_percent: u64,
    /// How long a producer rests after each transaction.
    pub rest: Duration,
}

/// What the producers know.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Ids of rows whose COMMIT was answered.
    pub committed: HashSet<Uuid>,
    /// Ids of rows that were never committed.
    pub rolled_back: HashSet<Uuid>,
    /// Ids of rows whose COMMIT was asked for and not answered.
    pub unknown: HashSet<Uuid>,
    /// What went wrong, the first few.
    pub errors: Vec<String>,
}

/// Producers at work, until they are stopped. Dropping them stops them at once.
#[derive(Debug)]
pub struct Loading {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    journal: Arc<Mutex<Journal>>,
}

impl Load {
    /// Four producers and fifty keys; one transaction in ten is rolled back.
    #[must_use]
    pub fn new(url: &str, destination: &Destination) -> Self {
        Self {
            url: url.to_owned(),
            destination: destination.clone(),
            seed: 1,
            producers: 4,
            keys: 50,
            rolled_back_percent: 10,
            rest: Duration::from_millis(2),
        }
    }

    /// Starts the producers.
    ///
    /// # Panics
    /// When the counters cannot be made.
    pub async fn start(self) -> Loading {
        let mut db = Session::connect(&self.url).await.expect("the database answers");
        let counters: Vec<String> = (0..self.keys).map(|key| format!("({key}, 0)")).collect();
        let insert = format!("INSERT INTO load_counter (id, n) VALUES {}", counters.join(", "));
        db.execute(&insert).await.expect("the counters are made");
        let (stop, journal, mut tasks) = (CancellationToken::new(), Arc::default(), JoinSet::new());
        for producer in 0..self.producers {
            let dice = Dice::new(self.seed.wrapping_mul(1_000).wrapping_add(producer));
            let producer = Producer { load: self.clone(), dice, journal: Arc::clone(&journal) };
            tasks.spawn(producer.run(stop.clone()));
        }
        Loading { stop, tasks, journal }
    }
}

impl Loading {
    /// Rows whose COMMIT was answered so far.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).committed.len()
    }

    /// Waits until this many more rows than now are committed.
    pub async fn more(&self, rows: usize) {
        let goal = self.committed() + rows;
        let what = format!("{rows} more rows are committed");
        crate::eventually(4 * BOUND, &what, || async { self.committed() >= goal }).await;
    }

    /// Lets every producer end its transaction, and says what they know.
    ///
    /// # Panics
    /// When a producer does.
    pub async fn stop(mut self) -> Journal {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a producer does not panic");
        }
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a transaction ended, as far as its producer knows.
enum End {
    Committed,
    RolledBack,
    Broken(String),
    Unknown(String),
}

struct Producer {
    load: Load,
    dice: Dice,
    journal: Arc<Mutex<Journal>>,
}

impl Producer {
    async fn run(mut self, stop: CancellationToken) {
        let mut session = None;
        while !stop.is_cancelled() {
            let mut db = match session.take() {
                Some(db) => db,
                None => match timeout(BOUND, Session::connect(&self.load.url)).await {
                    Ok(Ok(db)) => db,
                    Ok(Err(_)) | Err(_) => {
                        sleep(PAUSE).await; // the pace of reconnecting
                        continue;
                    }
                },
            };
            let mut ids = Vec::new();
            let end = self.transaction(&mut db, &mut ids).await;
            if matches!(end, End::Committed | End::RolledBack) {
                session = Some(db);
            }
            self.write_down(end, ids);
            sleep(self.load.rest).await; // the pace of the load
        }
    }

    async fn transaction(&mut self, db: &mut Session, ids: &mut Vec<Uuid>) -> End {
        match timeout(BOUND, self.statements(db, ids)).await {
            Ok(Ok(())) => {}
            // The connection is dropped with what is open on it.
            Ok(Err(error)) => return End::Broken(error.to_string()),
            Err(_) => return End::Broken(format!("no answer within {BOUND:?}")),
        }
        if self.dice.percent(self.load.rolled_back_percent) {
            return match timeout(BOUND, db.execute("ROLLBACK")).await {
                Ok(Ok(())) => End::RolledBack,
                Ok(Err(error)) => End::Broken(error.to_string()),
                Err(_) => End::Broken(format!("no answer within {BOUND:?}")),
            };
        }
        match timeout(BOUND, db.execute("COMMIT")).await {
            Ok(Ok(())) => End::Committed,
            Ok(Err(error)) => End::Unknown(error.to_string()),
            Err(_) => End::Unknown(format!("no answer within {BOUND:?}")),
        }
    }

    async fn statements(&mut self, db: &mut Session, ids: &mut Vec<Uuid>) -> Result<(), sqlx::Error> {
        let mut keys = vec![self.dice.below(self.load.keys)];
        if self.dice.percent(20) {
            keys.push(self.dice.below(self.load.keys));
        }
        // In order, or two producers would wait for each other.
        keys.sort_unstable();
        keys.dedup();
        db.begin().await?;
        for key in keys {
            db.execute(&format!("UPDATE load_counter SET n = n + 1 WHERE id = {key}")).await?;
            let n = db.number(&format!("SELECT n FROM load_counter WHERE id = {key}")).await?;
            let posted = Posted { key: i64::try_from(key).unwrap_or_default(), n };
            ids.push(insert(db, posted, &self.load.destination).await?);
        }
        Ok(())
    }

    fn write_down(&self, end: End, ids: Vec<Uuid>) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, error) = match end {
            End::Committed => (&mut journal.committed, None),
            End::RolledBack => (&mut journal.rolled_back, None),
            End::Broken(error) => (&mut journal.rolled_back, Some(error)),
            End::Unknown(error) => (&mut journal.unknown, Some(error)),
        };
        place.extend(ids);
        if journal.errors.len() < 100 {
            journal.errors.extend(error);
        }
    }
}

/// Commits one row by hand, beside the load: the `n`-th of a key that the load does not use.
///
/// # Errors
/// What the database says; nothing was committed then.
pub async fn post(db: &mut Session, posted: Posted, destination: &Destination) -> Result<Uuid, sqlx::Error> {
    db.begin().await?;
    let id = insert(db, posted, destination).await?;
    db.execute("COMMIT").await?;
    Ok(id)
}

/// The same in a transaction that is open and stays open.
///
/// # Errors
/// What the database says.
pub async fn insert(
    db: &mut Session,
    posted: Posted,
    destination: &Destination,
) -> Result<Uuid, sqlx::Error> {
    let (id, Posted { key, n }) = (Uuid::now_v7(), posted);
    let row = format!("INSERT INTO load_row (id, number, n) VALUES ({}, {key}, {n})", db.id(id));
    db.execute(&row).await?;
    db.execute(&outbox_row(db, id, posted, destination)).await?;
    Ok(id)
}

/// The statement that inserts a row as an application would.
#[must_use]
pub fn outbox_row(db: &Session, id: Uuid, posted: Posted, destination: &Destination) -> String {
    let body = serde_json::to_vec(&posted).unwrap_or_default();
    format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         VALUES ({}, '{destination}', 'load', '{}', 'load.posted', {})",
        db.id(id),
        posted.key,
        db.bytes(&body)
    )
}
