//! The ledger finds what it should: each kind of broken promise, made by hand in the tables of a finished run, is counted.

use anyhow::Context;
use barid::{SqlQueue, store::AnyPool};
use barid_examples::{Ledger, Place, Shop, Story, messages::Names, relay::RelayTask};
use sqlx::{Executor, SqlitePool};

const MESSAGES: u64 = 200;

/// A whole run of the quickstart, and what its tables say.
async fn run() -> anyhow::Result<(Place, Shop, Ledger)> {
    let place = Place::new(None).await?;
    let shop = Shop::open(&place).await?;
    let queue = SqlQueue::new(shop.pool.clone());
    let relay = RelayTask::new(&shop, queue.clone());
    let story = Story { shop: shop.clone(), transport: queue, names: Names::default(), messages: MESSAGES };
    let ledger = Box::pin(story.tell(relay)).await?;
    Ok((place, shop, ledger))
}

/// The shop's file and the journal's.
fn pools(shop: &Shop) -> (&SqlitePool, &SqlitePool) {
    let (AnyPool::Sqlite(shop), AnyPool::Sqlite(journal)) = (&shop.pool, shop.journal.pool()) else {
        panic!("not SQLite")
    };
    (shop, journal)
}

/// A copy of a finished and closed run, to be broken.
async fn copy(finished: &Place) -> anyhow::Result<(Place, Shop)> {
    let (from, to) = (finished.folder().context("not SQLite")?, tempfile::tempdir()?);
    for file in ["shop.db", "journal.db"] {
        std::fs::copy(from.join(file), to.path().join(file))?;
    }
    let place = Place::sqlite(to);
    let shop = Shop::open(&place).await?;
    Ok((place, shop))
}

/// Lost, phantom, twice, out of order.
fn zeros(ledger: &Ledger) -> [u64; 4] {
    [ledger.lost, ledger.phantom, ledger.effects_twice, ledger.order_breaks]
}

#[test]
fn the_last_line_names_every_column_and_a_run_without_misfortune_shows_nothing() {
    let good = Ledger {
        committed: 9,
        delivered: 9,
        handled: 9,
        rolled_back: 3,
        redelivered: 2,
        crashes: 1,
        ..Ledger::default()
    };
    assert_eq!(
        good.to_string(),
        "ledger: committed=9 delivered=9 handled=9 rolled_back=3 redelivered=2 crashes=1 lost=0 phantom=0 \
         effects_twice=0 order_breaks=0"
    );
    assert!(good.promises_kept() && good.misfortune_struck());
    for without in
        [Ledger { rolled_back: 0, ..good }, Ledger { redelivered: 0, ..good }, Ledger { crashes: 0, ..good }]
    {
        assert!(!without.misfortune_struck(), "{without}");
    }
}

#[tokio::test]
async fn a_run_keeps_every_promise_while_everything_goes_wrong() {
    let (place, shop, ledger) = run().await.unwrap();
    assert_eq!(zeros(&ledger), [0; 4], "{ledger}");
    assert_eq!([ledger.committed, ledger.delivered, ledger.handled], [MESSAGES; 3], "{ledger}");
    assert!(ledger.rolled_back >= MESSAGES / 10, "{ledger}");
    assert!(ledger.redelivered >= MESSAGES / 20, "{ledger}");
    assert!(ledger.crashes > 0, "{ledger}");
    shop.close().await;
    place.remove().await.unwrap();
}

#[tokio::test]
async fn each_broken_promise_is_counted_where_it_belongs() {
    let (finished, shop, _) = run().await.unwrap();
    shop.close().await;
    let check = async |what: &str, of_shop: &'static str, of_journal: &'static str, expected: [u64; 4]| {
        let (_place, shop) = copy(&finished).await.unwrap();
        let (orders, journal) = pools(&shop);
        orders.execute(of_shop).await.unwrap();
        journal.execute(of_journal).await.unwrap();
        let ledger = Ledger::count(&shop).await.unwrap();
        assert_eq!(zeros(&ledger), expected, "{what}: {ledger}");
        assert_eq!(ledger.promises_kept(), expected == [0; 4], "{what}: {ledger}");
        shop.close().await;
    };
    let nothing = "SELECT 1";
    check("nothing is broken", nothing, nothing, [0, 0, 0, 0]).await;
    check(
        "a delivery is missing",
        nothing,
        "DELETE FROM journal_deliveries WHERE message_id = \
         (SELECT message_id FROM journal_deliveries WHERE message = 'orders.placed' LIMIT 1)",
        [1, 0, 0, 0],
    )
    .await;
    check("a shipment is missing", "DELETE FROM shipments WHERE seq = 7", nothing, [1, 0, 0, 0]).await;
    check("an order is missing", "DELETE FROM orders WHERE seq = 7", nothing, [0, 1, 0, 0]).await;
    check(
        "a delivery of what nobody committed",
        nothing,
        "INSERT INTO journal_deliveries (message_id, message, customer) \
         VALUES (randomblob(16), 'orders.placed', 'customer-01')",
        [0, 1, 0, 0],
    )
    .await;
    check(
        "a shipment twice",
        "INSERT INTO shipments (event_id, customer, number) \
         SELECT event_id, customer, number FROM shipments WHERE seq = 7",
        nothing,
        [0, 0, 1, 0],
    )
    .await;
    check(
        "an order twice",
        "INSERT INTO orders (command_id, event_id, attempt_id, customer, number) \
         SELECT command_id, event_id, attempt_id, customer, number FROM orders WHERE seq = 7",
        nothing,
        [0, 0, 1, 0],
    )
    .await;
    check(
        "the first two deliveries of a customer change places",
        nothing,
        "UPDATE journal_deliveries SET message_id = CASE journal_deliveries.seq WHEN one.seq THEN two.message_id ELSE one.message_id END \
         FROM (SELECT seq, message_id FROM journal_deliveries \
               WHERE customer = 'customer-07' ORDER BY seq LIMIT 1) AS one, \
              (SELECT min(seq) AS seq, message_id FROM journal_deliveries \
               WHERE customer = 'customer-07' GROUP BY message_id ORDER BY seq LIMIT 1 OFFSET 1) AS two \
         WHERE journal_deliveries.seq IN (one.seq, two.seq)",
        [0, 0, 0, 1],
    )
    .await;
    finished.remove().await.unwrap();
}
