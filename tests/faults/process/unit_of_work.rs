//! The application dies before and after the COMMIT of its unit of work, with the real binary of a bus.
//!
//! Commands wait in a SQL queue; each is one row in `load_row` and one in the outbox. Beside the ledger, promise E: no command
//! has two effects.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, time::Duration};

use barid::{Destination, Message, Outgoing, Sender, SqlQueue, Transport, transport::Inbox};
use barid_tests::{
    Process,
    dice::Dice,
    ledger::Fault,
    load::Journal,
    names,
    outbox::Database,
    rig::{PATIENCE, Rig},
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use uuid::Uuid;

use super::loops;

const POINTS: [&str; 2] = ["uow_before_commit", "uow_after_commit_before_ack"];
const KEYS: i64 = 20;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "load.post")]
struct Post {
    key: i64,
    n: i64,
}

fn bus(rig: &Rig, queue: &str, point: &str, times: u64) -> Command {
    let mut bus = Command::new(env!("CARGO_BIN_EXE_aborting-bus"));
    bus.arg(&rig.outbox.url).arg(queue).arg(rig.tape.destination.to_string());
    bus.arg(point).arg(times.to_string());
    bus
}

async fn dies_around_the_commit(database: Database, seed: u64) {
    let rig = Rig::of(database).await;
    let queue = names::unique("commands");
    let transport = SqlQueue::new(rig.outbox.pool.clone());
    transport.declare(&Inbox::new(queue.as_str())).await.unwrap();
    let sender = Sender::connect(&transport, "customers").await.unwrap();
    let to = Destination::queue(queue.as_str()).unwrap();
    let commands = i64::try_from(loops()).unwrap() * 24;
    for number in 0..commands {
        let post = Post { key: number % KEYS, n: number / KEYS };
        sender.send(Outgoing::new(post).key(number % KEYS).to(to.clone())).await.unwrap();
    }
    let relay = rig.relay_at_work().await;
    let (mut faults, mut dice) = (Vec::new(), Dice::new(seed));
    // What the dying processes say of the row that they were at.
    let mut journal = Journal::default();
    for round in 0..loops() * POINTS.len() {
        let (point, times) = (POINTS[round % POINTS.len()], 1 + dice.below(8));
        let mut dying = Process::start(&mut bus(&rig, &queue, point, times));
        let status = dying.ended(PATIENCE).await;
        let log = dying.log().join("\n");
        assert_eq!(status.signal(), Some(6), "{point}:{times}, seed {seed}: {status}\n{log}");
        let line = log.lines().find(|line| line.starts_with(&format!("failpoint {point}")));
        let id = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        let id: Uuid = id.unwrap_or_else(|| panic!("{point}: no line with the row\n{log}"));
        if point == POINTS[0] { &mut journal.rolled_back } else { &mut journal.committed }.insert(id);
        faults.push(Fault::new(format!("{point}:{times}"), format!("{status}, row {id}")));
    }
    let living = Process::start(&mut bus(&rig, &queue, POINTS[0], 0));
    let all = usize::try_from(commands).unwrap();
    let rows = || async { rig.outbox.committed().await.len() };
    barid_tests::eventually(PATIENCE, "every command is handled", || async { rows().await >= all }).await;
    assert!(living.terminate(Duration::from_secs(60)).await.0.success());
    let committed = rig.outbox.committed().await;
    let effects: HashSet<(i64, i64)> = committed.iter().map(|(_, posted)| (posted.key, posted.n)).collect();
    assert_eq!((committed.len(), effects.len()), (all, all), "E: one effect a command");
    let mut ledger = rig.settle_with(journal, relay, 0, faults).await;
    ledger.assert_promises();
    ledger.faults.clear();
    println!("{ledger}");
}

#[tokio::test]
async fn f34_around_the_commit_on_postgres() {
    dies_around_the_commit(Database::Postgres, 1).await;
}

#[tokio::test]
async fn f34_around_the_commit_on_mariadb() {
    dies_around_the_commit(Database::MariaDb, 2).await;
}

#[tokio::test]
async fn f34_around_the_commit_on_sqlite() {
    dies_around_the_commit(Database::Sqlite, 3).await;
}
