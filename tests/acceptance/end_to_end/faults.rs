//! Kills the relay while it has work in hand, and keeps what proves that it had.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, time::Duration};

use barid_tests::{Process, eventually, tape::Tape};
use tokio::process::Command;
use uuid::Uuid;

use super::{PATIENCE, orders::Orders};

/// Rows that wait when a relay starts: more than it can have published when its first DELETE has been seen.
const BACKLOG: usize = 1_000;

/// One kill.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    /// The signal that the process ended by.
    pub(crate) signal: Option<i32>,
    /// Rows that this relay process had published, seen confirmed and deleted before it was killed: it was at work.
    pub(crate) deleted: usize,
    /// Rows that were in the outbox before this process started and still were when its connections were gone. Those of
    /// them that the broker got only after the kill were unconfirmed at the kill; the tape tells which.
    pub(crate) held: HashSet<Uuid>,
    /// Every row that was in the outbox when its connections were gone: what the next process may publish again.
    pub(crate) left: HashSet<Uuid>,
}

/// Waits until `relay` has published something, and kills it.
pub(crate) async fn kill(relay: impl FnOnce() -> Process, orders: &Orders, tape: &Tape) -> Kill {
    eventually(PATIENCE, "a backlog", || async { orders.outbox_up_to(i64::MAX).await >= BACKLOG }).await;
    let before = orders.outbox().await;
    let top = before.last().unwrap().0;
    let mut relay = relay();
    relay.line_with("claimed the outbox", PATIENCE).await;
    // The moment passes quickly, so every look follows the one before at once.
    let publishing = async { while orders.outbox_up_to(top).await >= before.len() {} };
    tokio::time::timeout(Duration::from_secs(30), publishing).await.expect("the relay publishes");
    let id = relay.id().expect("the relay runs").to_string();
    assert!(Command::new("kill").args(["-KILL", &id]).status().await.unwrap().success());
    let signal = relay.ended(PATIENCE).await.signal();
    // The server may still be working on its last DELETE.
    eventually(PATIENCE, "the relay's connections are gone", || async {
        orders.relays_connected().await == 0
    })
    .await;
    tape.mark().await;
    let after = orders.outbox().await;
    let held: HashSet<Uuid> = after.iter().filter(|(seq, _)| *seq <= top).map(|(_, id)| *id).collect();
    let left = after.into_iter().map(|(_, id)| id).collect();
    Kill { signal, deleted: before.len() - held.len(), held, left }
}
