//! What a distributed transaction costs in round trips, counted on the wire.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use barid::distributed::Settings;
use barid_tests::{
    Proxy, TestDatabase,
    transfer::{Bank, Scenario},
};

/// One transfer between two databases: three for the home (opening text, work, closing text with the decision), two for the log (who
/// takes part, and the end), four for the branch (opening text, work, PREPARE with the marker, COMMIT PREPARED).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_over_two_postgres_databases() {
    const TRANSFERS: i64 = 20;
    let (home, side) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    Bank::create(&[home.url.clone(), side.url.clone()], TRANSFERS + 1).await.unwrap();
    let (home, home_url) = Proxy::in_front_of(&home.url).await;
    let (side, side_url) = Proxy::in_front_of(&side.url).await;
    let bank = Bank::open(&[home_url, side_url], Settings::default()).await.unwrap();
    // Connections are made, and what is asked once is asked.
    bank.transferred(TRANSFERS, Scenario::Yes).await.unwrap();
    bank.coordinator.drain().await;
    let mut counted = Vec::new();
    for account in 0..TRANSFERS {
        home.reset();
        side.reset();
        bank.transferred(account, Scenario::Yes).await.unwrap();
        bank.coordinator.drain().await;
        counted.push((home.round_trips(), side.round_trips()));
    }
    counted.sort_unstable();
    // A connection that a pool looks after in between costs a round trip: the most of them have none.
    let median = counted[counted.len() / 2];
    println!("round trips at home and in the branch: {counted:?}");
    // The work of a transfer is two statements at home and one in the branch.
    assert_eq!(median, (1 + 2 + 1 + 2, 1 + 1 + 1 + 1), "{counted:?}");
    bank.close().await;
}
