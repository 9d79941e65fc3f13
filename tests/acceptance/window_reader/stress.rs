//! Writers that do everything that has ever confused a reader of an outbox.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use sqlx::{Connection, Executor, PgConnection};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::ledger::{Arena, KEYS, emit, lock_and_raise};

const WRITERS: u64 = 12;

/// Writers at work until they are told to stop.
pub(crate) struct Writing {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Writing {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Writes for this long.
pub(crate) fn start(arena: &Arena, time: Duration) -> JoinHandle<()> {
    let writing = until_stopped(arena);
    tokio::spawn(async move {
        sleep(time).await; // the length of the stress, not a condition
        writing.stop().await;
    })
}

pub(crate) fn until_stopped(arena: &Arena) -> Writing {
    let stop = CancellationToken::new();
    let url = arena.url().to_owned();
    let (rolled_back, stopped) = (arena.rolled_back.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let writers = (0..WRITERS).map(|seed| write(&url, seed, &rolled_back, &stopped));
        join_all(writers).await;
    });
    Writing { stop, task }
}

async fn write(url: &str, seed: u64, rolled_back: &Arc<AtomicUsize>, stop: &CancellationToken) {
    let mut db: PgConnection = PgConnection::connect(url).await.unwrap();
    let mut dice = Dice(seed);
    while !stop.is_cancelled() {
        if transaction(&mut db, &mut dice).await {
            db.execute("COMMIT").await.unwrap();
        } else {
            db.execute("ROLLBACK").await.unwrap();
            rolled_back.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_micros(dice.below(8_000))).await; // the pace of the load
    }
}

/// One transaction up to its end; whether to commit it.
async fn transaction(db: &mut PgConnection, dice: &mut Dice) -> bool {
    db.execute("BEGIN").await.unwrap();
    if dice.percent(30) {
        // An early transaction id: smaller than those of transactions that will insert before this one does.
        db.execute("SELECT pg_current_xact_id()").await.unwrap();
        sleep(Duration::from_micros(dice.below(20_000))).await;
    }
    let mut keys = vec![dice.key()];
    if dice.percent(20) {
        keys.push(dice.key());
    }
    // In order, or two writers would wait for each other.
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let version = lock_and_raise(db, key).await;
        if dice.percent(20) {
            // The row that stays has the id of a subtransaction in its system columns.
            db.execute("SAVEPOINT s").await.unwrap();
            emit(db, key, version, false).await;
            let again = dice.percent(50);
            db.execute(if again { "ROLLBACK TO SAVEPOINT s" } else { "RELEASE SAVEPOINT s" }).await.unwrap();
            if !again {
                continue;
            }
        }
        emit(db, key, version, false).await;
    }
    if dice.permille(8) {
        sleep(Duration::from_secs(1)).await;
    } else if dice.percent(30) {
        sleep(Duration::from_micros(dice.below(10_000))).await;
    }
    !dice.percent(10)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    fn key(&mut self) -> i64 {
        i64::try_from(self.below(u64::try_from(KEYS).unwrap())).unwrap()
    }
}
