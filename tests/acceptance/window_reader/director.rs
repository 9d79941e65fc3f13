//! Interleavings whose order of commits is controlled: each makes one of the forbidden readers fail every time.
//!
//! Every round has keys of its own, so that the random writers cannot hide or add anything.

use barid_tests::eventually::eventually;
use sqlx::{Executor, PgConnection};

use crate::{
    SETTLE,
    ledger::{Arena, Seen, emit, lock_and_raise},
};

/// A transaction that took the smaller `seq` commits after a reader has delivered a greater one.
pub(crate) async fn late_commit(arena: &Arena, seen: &Seen, round: i64) {
    let [late, early] = keys(arena, 1_000 + round).await;
    let (mut one, mut two) = (arena.connection().await, arena.connection().await);
    begin(&mut one).await;
    let version = lock_and_raise(&mut one, late).await;
    emit(&mut one, late, version, false).await;
    begin(&mut two).await;
    let version = lock_and_raise(&mut two, early).await;
    emit(&mut two, early, version, false).await;
    two.execute("COMMIT").await.unwrap();
    // A reader in the order of xid delivers nothing while `one` is open, so this is not for it.
    eventually(SETTLE, "the row with the greater seq is delivered", async || seen.has(early, version)).await;
    one.execute("COMMIT").await.unwrap();
}

/// The transaction with the smaller id writes the later row of a key.
pub(crate) async fn early_xid(arena: &Arena, round: i64) {
    let [key, _] = keys(arena, 2_000 + round).await;
    let (mut one, mut two) = (arena.connection().await, arena.connection().await);
    begin(&mut two).await;
    two.execute("SELECT pg_current_xact_id()").await.unwrap();
    begin(&mut one).await;
    let first = lock_and_raise(&mut one, key).await;
    emit(&mut one, key, first, false).await;
    one.execute("COMMIT").await.unwrap();
    let second = lock_and_raise(&mut two, key).await;
    assert!(first < second);
    emit(&mut two, key, second, false).await;
    two.execute("COMMIT").await.unwrap();
}

/// Two rows of a key in one commit; a publisher takes its time with the first.
pub(crate) async fn backlog(arena: &Arena, round: i64) {
    let [key, _] = keys(arena, 3_000 + round).await;
    let mut db = arena.connection().await;
    begin(&mut db).await;
    for slow in [true, false] {
        let version = lock_and_raise(&mut db, key).await;
        emit(&mut db, key, version, slow).await;
    }
    db.execute("COMMIT").await.unwrap();
}

async fn begin(db: &mut PgConnection) {
    db.execute("BEGIN").await.unwrap();
}

async fn keys(arena: &Arena, round: i64) -> [i64; 2] {
    let keys = [round * 2, round * 2 + 1];
    for key in keys {
        let insert = sqlx::query("INSERT INTO aggregate (key, version) VALUES ($1, 0)").bind(key);
        insert.execute(arena.pool()).await.unwrap();
    }
    keys
}
