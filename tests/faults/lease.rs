//! Who owns a source, while relays are paused, killed, stopped and started: rows F35, F36 and F37 of the fault table.

#![allow(clippy::unwrap_used)] // a test

use std::collections::HashSet;
use std::time::Duration;

use barid_tests::{
    Process, eventually,
    ledger::{Evidence, Fault},
    load::Journal,
    names,
    outbox::{Database, Outbox, Posted},
    rig::{HELD_MAX, PATIENCE, Rig, WINDOW},
    servers, sql,
    tape::Tape,
};
use tokio::process::Command;
use uuid::Uuid;

/// A standby that has to wait for the end of a lease waits that long.
const SHORT: &str = "lease_ms = 6000";
/// Nobody waits for the end of this one.
const ENDLESS: &str = "lease_ms = 3600000";

async fn signal(process: &Process, signal: &str) {
    let id = process.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
}

/// F35: the owner is stopped in the middle of its work for longer than its lease, and comes back when another one has done
/// everything: what it then publishes was on its way when it was stopped, and no more than that.
async fn paused(database: Database, tape: Tape) {
    let mut rig = Rig::new(Outbox::new(database).await, tape);
    let load = rig.load().start().await;
    load.more(2_000).await;
    rig.relay_lines = format!("{SHORT}\ninstance = \"first\"");
    let mut first = rig.relay_at_work().await;
    eventually(PATIENCE, "the first relay publishes", || async { rig.outbox.left().await < 2_000 }).await;
    signal(&first, "-STOP").await;
    let held = rig.outbox.left().await;
    rig.relay_lines = format!("{SHORT}\ninstance = \"second\"");
    let mut second = rig.relay();
    let waiting =
        second.line_with("another relay is working on its outbox: first (epoch 1) until ", PATIENCE).await;
    let claimed = second.line_with("claimed the outbox", PATIENCE).await;
    assert!(claimed.contains("epoch=2"), "{claimed}");
    load.more(500).await;
    let journal = load.stop().await;
    let drained = rig.drained().await;
    rig.tape.mark().await;

    signal(&first, "-CONT").await;
    let refused = first.line_with("epoch 1 refused, 2 is the owner: second", PATIENCE).await;
    first.line_with("another relay is working on its outbox: second (epoch 2) until ", PATIENCE).await;
    // A clean stop hands the source over at once; the first one is its own standby now.
    let (status, log) = second.terminate(PATIENCE).await;
    assert!(status.success() && log.iter().any(|line| line.contains("released the outbox")), "{log:#?}");
    let (status, log) = first.terminate(PATIENCE).await;
    assert!(status.success(), "the first relay ended by {status}\n{}", log.join("\n"));

    let fault = Fault::new(format!("the owner was stopped with {held} rows in the outbox"), refused);
    assert!(held > WINDOW, "it was stopped with {held} rows left: too few to show anything\n{waiting}");
    let late = late_copies(rig, journal, vec![fault], drained).await;
    assert!(
        late <= WINDOW,
        "{late} rows were published by a relay that had lost the source, of {WINDOW} at most"
    );
}

/// Keeps the books; how many copies came after the mark, none of which may be the first of its message.
async fn late_copies(rig: Rig, journal: Journal, faults: Vec<Fault>, drained: Duration) -> usize {
    rig.tape.mark().await;
    let (committed, parked, left) =
        (rig.outbox.committed().await, rig.outbox.parked().await, rig.outbox.left().await);
    let tape = rig.tape.read::<Posted>().await;
    let early: HashSet<Uuid> = tape.iter().filter(|copy| copy.marks == 0).map(|copy| copy.id).collect();
    let late: Vec<Uuid> = tape.iter().filter(|copy| copy.marks > 0).map(|copy| copy.id).collect();
    rig.outbox.drop_now().await;
    // Published and not yet deleted when it was stopped: the second relay published those again, and the first one those of
    // them that it had still on their way.
    let window = HELD_MAX + WINDOW;
    let evidence = Evidence { committed, journal, tape, parked, left, window, faults, drained };
    let ledger = evidence.ledger();
    println!("{ledger}\n{} copies came from the relay that had lost the source", late.len());
    ledger.assert_promises();
    assert!(late.iter().all(|id| early.contains(id)), "it published a row that was never published before");
    late.len()
}

#[tokio::test]
async fn f35_a_paused_owner_on_postgres_and_rabbitmq() {
    paused(Database::Postgres, Tape::rabbitmq(&servers::amqp()).await).await;
}

#[tokio::test]
async fn f35_a_paused_owner_on_mariadb_and_rabbitmq() {
    paused(Database::MariaDb, Tape::rabbitmq(&servers::amqp()).await).await;
}

#[tokio::test]
async fn f35_a_paused_owner_on_postgres_and_kafka() {
    paused(Database::Postgres, Tape::kafka(&names::kafka_topic("lease", 4).await)).await;
}

/// The only relay that has claimed the outbox, as soon as there is one and all others say that they wait for it.
async fn the_owner(relays: &[Process], epoch: i64) -> usize {
    let said = |relay: &Process, text: &str| relay.log().iter().any(|line| line.contains(text));
    let owns = |relay: &Process| said(relay, "claimed the outbox");
    let waits = format!("(epoch {epoch}) until ");
    let settled = async {
        while !(relays.iter().any(owns) && relays.iter().all(|relay| owns(relay) || said(relay, &waits))) {
            tokio::time::sleep(Duration::from_millis(20)).await; // the pace of looking
        }
    };
    if tokio::time::timeout(PATIENCE, settled).await.is_err() {
        let logs: Vec<String> = relays.iter().map(|relay| relay.log().join("\n")).collect();
        panic!("it was not one that claimed the outbox and others that wait for it\n{}", logs.join("\n\n"));
    }
    let owners: Vec<usize> = (0..relays.len()).filter(|at| owns(&relays[*at])).collect();
    assert_eq!(owners.len(), 1, "one owner at a time");
    owners[0]
}

/// F36 and F37: relays start at once, and the owner is stopped by SIGTERM under load, again and again. A lease of an hour: whoever
/// takes over does so because it was released.
async fn started_at_once_and_stopped(database: Database, count: usize) {
    let mut rig = Rig::new(Outbox::new(database).await, Tape::rabbitmq(&servers::amqp()).await);
    rig.relay_lines = ENDLESS.to_owned();
    // Written once: the others read it while the next one starts.
    let config = rig.config();
    let start = || Process::relay(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    let mut relays: Vec<Process> = (0..count).map(|_| start()).collect();
    let load = rig.load().start().await;
    let (mut faults, mut epoch) = (Vec::new(), 1);
    loop {
        let owner = the_owner(&relays, epoch).await;
        let newest = sql::number(&rig.outbox.pool, "SELECT epoch FROM relay_source").await.unwrap();
        assert_eq!(newest, epoch, "each take-over is one epoch");
        load.more(150).await;
        let owner = relays.swap_remove(owner);
        if relays.is_empty() {
            // What was delivered was delivered once: each of them waited for its answers and deleted what they confirmed.
            return rig.settle(load, owner, 0, faults).await.assert_promises();
        }
        let (status, log) = owner.terminate(PATIENCE).await;
        let released = log.iter().find(|line| line.contains("released the outbox")).cloned();
        assert_eq!(status.code(), Some(0), "{}", log.join("\n"));
        faults.push(Fault::new("the owner was stopped by SIGTERM", released.unwrap_or_default()));
        epoch += 1;
    }
}

fn relays() -> std::ops::RangeInclusive<usize> {
    if servers::long() { 2..=8 } else { 4..=4 }
}

#[tokio::test]
async fn f36_f37_relays_that_start_at_once_on_postgres() {
    for count in relays() {
        started_at_once_and_stopped(Database::Postgres, count).await;
    }
}

#[tokio::test]
async fn f36_f37_relays_that_start_at_once_on_mariadb() {
    for count in relays() {
        started_at_once_and_stopped(Database::MariaDb, count).await;
    }
}

#[tokio::test]
async fn f36_f37_relays_that_start_at_once_on_sqlite() {
    for count in relays() {
        started_at_once_and_stopped(Database::Sqlite, count).await;
    }
}

/// On one host nobody waits for the lease of a process that is dead.
#[tokio::test]
async fn a_dead_owner_is_not_waited_for() {
    let mut rig = Rig::new(Outbox::new(Database::Postgres).await, Tape::rabbitmq(&servers::amqp()).await);
    rig.relay_lines = ENDLESS.to_owned();
    let first = rig.relay_at_work().await;
    let mut second = rig.relay();
    second.line_with("another relay is working on its outbox: ", PATIENCE).await;
    let load = rig.load().start().await;
    load.more(200).await;
    first.kill().await;
    let claimed = second.line_with("claimed the outbox", PATIENCE).await;
    load.more(100).await;
    rig.settle(load, second, HELD_MAX, vec![Fault::new("the owner was killed", claimed)])
        .await
        .assert_promises();
}
