//! What MariaDB does to the sessions of a relay while it stays up.

use barid_tests::{
    eventually,
    ledger::Fault,
    outbox::Database,
    rig::{PATIENCE, Rig},
    sql,
    sql::Session,
};
use sqlx::{Connection, Executor, MySqlConnection};

use super::{postgres::post, rounds};

/// The sessions of everyone in this database but the one that asks.
const OTHERS: &str = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
    WHERE db = DATABASE() AND id <> CONNECTION_ID()";

#[tokio::test]
async fn f04_connections_are_killed() {
    let rig = Rig::of(Database::MariaDb).await;
    let mut admin = MySqlConnection::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..2 * rounds() {
        load.more(100).await;
        let ids: Vec<i64> = sqlx::query_scalar(OTHERS).fetch_all(&mut admin).await.unwrap();
        let mut killed = 0;
        for id in ids {
            // One may have ended by itself in between.
            killed += usize::from(admin.execute(sqlx::AssertSqlSafe(format!("KILL {id}"))).await.is_ok());
        }
        assert!(killed > 0, "nobody was connected");
        faults.push(Fault::new("every connection was killed", format!("{killed} connections")));
    }
    load.more(100).await;
    relay.line_with("connecting again", PATIENCE).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f11_a_migration_locks_the_outbox() {
    let rig = Rig::of(Database::MariaDb).await;
    let mut migration = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..rounds() {
        load.more(100).await;
        migration.execute("LOCK TABLES outbox WRITE").await.unwrap();
        // The relay's statements name their columns; the producers' begin with INSERT.
        let waiting = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() \
            AND state LIKE 'Waiting for table%' AND (info LIKE 'SELECT seq%' OR info LIKE 'DELETE%')";
        eventually(PATIENCE, "the relay waits for the lock", || async {
            sql::number(&rig.outbox.pool, waiting).await.unwrap() > 0
        })
        .await;
        migration.execute("UNLOCK TABLES").await.unwrap();
        faults.push(Fault::new("another session held the table", "the relay's sessions waited for it"));
    }
    load.more(100).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

/// The server's default gives a session that polls in a transaction the same answer for ever.
#[tokio::test]
async fn f16_repeatable_read_is_the_default() {
    let rig = Rig::of(Database::MariaDb).await;
    let level = "SELECT @@global.tx_isolation = 'REPEATABLE-READ'";
    assert_eq!(sql::number(&rig.outbox.pool, level).await.unwrap(), 1);
    let mut old = Session::connect(&rig.outbox.url).await.unwrap();
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    old.begin().await.unwrap();
    assert_eq!(old.number("SELECT count(*) FROM load_row").await.unwrap(), 0);
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    for n in 1..=5 {
        // Each after the relay has polled in vain, and has an old answer to hold on to.
        let id = post(&mut db, &rig, 3_000, n).await;
        eventually(PATIENCE, "the new row is seen", || async { !rig.outbox.waiting().await.contains(&id) })
            .await;
    }
    load.more(100).await;
    let (seen, there) = (
        old.number("SELECT count(*) FROM load_row").await.unwrap(),
        sql::number(&rig.outbox.pool, "SELECT count(*) FROM load_row").await.unwrap(),
    );
    assert!(seen == 0 && there >= 100, "{seen} of {there}");
    old.execute("ROLLBACK").await.unwrap();
    let evidence = format!("a session with an open snapshot saw {seen} of {there} rows");
    let faults = vec![Fault::new("the server's isolation level is REPEATABLE READ", evidence)];
    rig.settle(load, relay, 0, faults).await.assert_promises();
}
