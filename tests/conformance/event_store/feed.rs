//! Subscriptions: a bus is fed every event, goes on where it was, and with idempotency has every effect once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barid::{
    Bus, BusError, Context, Error, EventFeed, Message, Result, RetryPolicy, SqlIdempotency, SqlOutbox,
    SqlUnitOfWork, State,
    event_store::{EventStore, Expected, NewEvent},
    headers,
    store::Backend,
};
use barid_tests::eventually;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Counted, counted, on_each, stream};

const PATIENCE: Duration = Duration::from_secs(120);

on_each!(every_event_has_one_effect_and_streams_keep_their_order);
on_each!(a_stream_that_fails_holds_up_no_other);

/// An event of the handlers' own: its stream counts the effects, in the transaction of each.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "effects.had")]
struct Effect {
    n: u64,
}

#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    /// The versions that were handled, of each stream.
    versions: Mutex<BTreeMap<String, Vec<u64>>>,
    /// Streams whose events fail.
    failing: Mutex<Option<String>>,
}

async fn project<DB: Backend>(event: Counted, seen: State<Arc<Seen>>, cx: Context) -> Result<()> {
    let header = |name: &str| cx.headers().get(name).unwrap().to_owned();
    let name = header(headers::KEY);
    // The first call of many fails after its work: it must have no effect.
    let calls = seen.0.calls.fetch_add(1, Ordering::Relaxed);
    cx.events::<DB>()
        .await?
        .append(&stream(&format!("effects of {name}")), Expected::Any, [Effect { n: event.n }])
        .await?;
    if calls % 7 == 3 || seen.0.failing.lock().unwrap().as_deref() == Some(&*name) {
        return Err(Error::new("on purpose"));
    }
    let version = header(headers::EVENT_VERSION).parse().unwrap();
    assert!(header(headers::EVENT_POSITION).parse::<u64>().unwrap() > 0);
    seen.0.versions.lock().unwrap().entry(name).or_default().push(version);
    Ok(())
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

impl Running {
    fn start<DB: Backend>(store: &EventStore<DB>, pool: &sqlx::Pool<DB>, seen: &Arc<Seen>) -> Self
    where
        SqlUnitOfWork<DB>: barid::UnitOfWork,
    {
        let bus = Bus::builder("projection")
            .transport(EventFeed::new(store.clone()).lease(Duration::from_secs(5)))
            .unit_of_work(SqlUnitOfWork::new(pool.clone()).commit_with_transaction(true))
            .outbox(SqlOutbox::new())
            .idempotency(SqlIdempotency::new())
            .retry(RetryPolicy {
                attempts_max: 1_000,
                pause: Duration::from_millis(1),
                pause_max: Duration::from_millis(20),
                ..RetryPolicy::default()
            })
            .parallelism(4)
            .state(Arc::clone(seen))
            .handler(project::<DB>)
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        Self { stop, task: tokio::spawn(async move { bus.run_until(until.cancelled()).await }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As a process that dies: nothing is given back.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn effects<DB: Backend>(store: &EventStore<DB>, of: &str) -> u64 {
    store.version(&stream(&format!("effects of {of}"))).await.unwrap()
}

mod suite {
    use super::*;

    pub(super) async fn every_event_has_one_effect_and_streams_keep_their_order<DB: Backend>(
        store: EventStore<DB>,
        pool: sqlx::Pool<DB>,
    ) where
        SqlUnitOfWork<DB>: barid::UnitOfWork,
    {
        const EACH: u64 = 12;
        let seen = Arc::new(Seen::default());
        let names = ["a", "b", "c"];
        for n in 1..=EACH {
            for name in names {
                store.append(&stream(name), Expected::Any, [counted(n)]).await.unwrap();
            }
            // Nobody handles these.
            store.append(&stream("noise"), Expected::Any, [NewEvent::raw("noise.made", "x")]).await.unwrap();
        }
        let had = async |count: u64| {
            let store = &store;
            eventually(PATIENCE, &format!("{count} effects of each stream"), || async move {
                let (a, b, c) =
                    (effects(store, "a").await, effects(store, "b").await, effects(store, "c").await);
                a >= count && b >= count && c >= count
            })
            .await;
        };
        // Killed in the middle; the next one waits for the lease and goes on.
        let first = Running::start(&store, &pool, &seen);
        had(EACH / 3).await;
        first.kill().await;
        let second = Running::start(&store, &pool, &seen);
        // A second instance of the same subscription only waits.
        let idle = Running::start(&store, &pool, &seen);
        had(EACH).await;
        for n in EACH + 1..=EACH + 3 {
            for name in names {
                store.append(&stream(name), Expected::Any, [counted(n)]).await.unwrap();
            }
        }
        had(EACH + 3).await;
        second.stop().await;
        idle.stop().await;
        for name in names {
            assert_eq!(effects(&store, name).await, EACH + 3, "each event has one effect");
            let versions = seen.versions.lock().unwrap()[name].clone();
            assert!(versions.is_sorted(), "{name}: {versions:?}");
        }
        // Those that stopped had written how far they were, and a later one does nothing again.
        let before = seen.calls.load(Ordering::Relaxed);
        assert!(before > 3 * (EACH + 3), "some failed, and came again");
        let third = Running::start(&store, &pool, &seen);
        store.append(&stream("a"), Expected::Any, [counted(99)]).await.unwrap();
        eventually(PATIENCE, "one more", || async { effects(&store, "a").await == EACH + 4 }).await;
        third.stop().await;
        assert!(store.checkpoint("projection").await.unwrap().unwrap() >= 4 * EACH + 9);
    }

    pub(super) async fn a_stream_that_fails_holds_up_no_other<DB: Backend>(
        store: EventStore<DB>,
        pool: sqlx::Pool<DB>,
    ) where
        SqlUnitOfWork<DB>: barid::UnitOfWork,
    {
        let seen = Arc::new(Seen::default());
        *seen.failing.lock().unwrap() = Some("bad".to_owned());
        store.append(&stream("bad"), Expected::Any, [counted(1), counted(2)]).await.unwrap();
        store.append(&stream("good"), Expected::Any, (1..=20).map(counted)).await.unwrap();
        let running = Running::start(&store, &pool, &seen);
        eventually(PATIENCE, "the others go on", || async { effects(&store, "good").await == 20 }).await;
        assert_eq!(effects(&store, "bad").await, 0);
        assert_eq!(store.checkpoint("projection").await.unwrap(), Some(0), "nothing is passed over");
        *seen.failing.lock().unwrap() = None;
        eventually(PATIENCE, "it goes on", || async { effects(&store, "bad").await == 2 }).await;
        running.stop().await;
        assert_eq!(seen.versions.lock().unwrap()["bad"], [1, 2]);
    }
}
