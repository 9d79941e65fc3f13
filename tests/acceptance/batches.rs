//! Several messages in one unit of work: one table over the three databases and everything that can go wrong in a batch.
//!
//! What is asserted is what a user could see: business rows, outbox, records and attempts of each message, what the transport
//! was told, in which order handlers ran, and in which order the outbox has the rows.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "batches/bus.rs"]
mod bus;
#[path = "batches/cancelled.rs"]
mod cancelled;
#[path = "batches/gathered.rs"]
mod gathered;
#[path = "batches/rabbitmq.rs"]
mod rabbitmq;
#[path = "batches/refused.rs"]
mod refused;
#[path = "batches/world.rs"]
mod world;

use std::{sync::Arc, time::Duration};

use bus::{Do, Place, Setup, Stage};
use world::{Kind, World};

/// Nothing in the table may take this long; what does hangs.
const BOUND: Duration = Duration::from_secs(30);

/// One message and what is expected of it: what the transport is told, rows (business, outbox, record), attempts.
struct Expected {
    place: Place,
    told: &'static str,
    rows: [i64; 3],
    attempts: i64,
}

fn done(place: Place) -> Expected {
    Expected { place, told: "ack", rows: [1, 1, 1], attempts: 0 }
}

fn back(place: Place, attempts: i64) -> Expected {
    Expected { place, told: "nack", rows: [0, 0, 0], attempts }
}

struct Case {
    name: &'static str,
    setup: Setup,
    messages: Vec<Expected>,
    /// Which handlers ran, by the number of the message, in order.
    ran: &'static [usize],
    /// The messages whose rows are in the outbox, in order.
    outbox: &'static [usize],
    /// Lose the answer to the COMMIT of the batch: after it happened, or before.
    lose: Option<bool>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            setup: Setup::default(),
            messages: (0..5).map(|at| done(Place::new(at))).collect(),
            ran: &[0, 1, 2, 3, 4],
            outbox: &[0, 1, 2, 3, 4],
            lose: None,
        }
    }
}

/// The third of five does something that fails it.
fn third(name: &'static str, does: Do) -> Case {
    let mut case = Case { name, ran: &[0, 1, 2, 0, 1, 2, 3, 4], outbox: &[0, 1, 3, 4], ..Case::default() };
    case.messages[2] = back(Place::new(2).does(does), 1);
    case
}

fn cases(kind: Kind) -> Vec<Case> {
    let mut cases = vec![
        Case { name: "all succeed", ..Case::default() },
        third("an error", Do::Error),
        third("a panic", Do::Panic),
        third("a failed statement that is ignored", Do::Poison),
        third("a guard that outlives its handler", Do::KeepGuard),
        third("a failing action before the commit", Do::FailBeforeCommit),
        {
            // The actions run when all handlers have returned.
            let case = third("a failing action in the commit", Do::FailInCommit);
            Case { ran: &[0, 1, 2, 3, 4, 0, 1, 2, 3, 4], ..case }
        },
        {
            // What was committed by hand stays, as without batches, and nobody else loses anything.
            let mut case = third("a COMMIT by hand", Do::Commit);
            case.messages[2].rows = [1, 0, 1];
            case
        },
        {
            let mut case = third("a dead letter", Do::Permanent);
            case.messages[2] = Expected { told: "ack", ..back(Place::new(2).does(Do::Permanent), 0) };
            case
        },
        {
            let mut case = Case { name: "a refused COMMIT", ..Case::default() };
            case.messages[2] = back(Place::new(2).does(Do::RefuseCommit), 1);
            Case { ran: &[0, 1, 2, 3, 4, 0, 1, 2, 3, 4], outbox: &[0, 1, 3, 4], ..case }
        },
        {
            let mut case = Case { name: "the same message twice", ..Case::default() };
            case.messages[3].place.twin_of = Some(1);
            case.messages[3].rows = [0, 0, 1];
            Case { ran: &[0, 1, 2, 4], outbox: &[0, 1, 2, 4], ..case }
        },
        {
            let mut case = Case { name: "a message that was handled before", ..Case::default() };
            case.messages[1].place.stage = Stage::Handled;
            Case { ran: &[1, 0, 2, 3, 4], outbox: &[1, 0, 2, 3, 4], ..case }
        },
        {
            let mut case = Case { name: "a repeat without attempts", ..Case::default() };
            case.messages[1].place.stage = Stage::Repeat(0);
            case
        },
        {
            let mut case = Case { name: "a repeat that was tried before", ..Case::default() };
            case.messages[1].place.stage = Stage::Repeat(1);
            Case { ran: &[0, 2, 3, 4, 1], outbox: &[0, 2, 3, 4, 1], ..case }
        },
        {
            let mut case = third("repeats, and one fails", Do::Error);
            case.messages.iter_mut().for_each(|message| message.place.stage = Stage::Repeat(0));
            case
        },
        {
            // The transport orders keys: the later one of the key goes back too, and is not counted.
            let mut case = Case { name: "two of a key, the first fails", ..Case::default() };
            case.messages[1] = back(Place::new(1).key("k").does(Do::Error), 1);
            case.messages[3] = back(Place::new(3).key("k"), 0);
            Case { ran: &[0, 1, 0, 1, 2, 4], outbox: &[0, 2, 4], ..case }
        },
        {
            let mut case = Case { name: "two of a key without order, the first fails", ..Case::default() };
            case.setup.orders_keys = false;
            case.messages[1] = back(Place::new(1).key("k").does(Do::Error), 1);
            case.messages[3].place = Place::new(3).key("k");
            Case { ran: &[0, 1, 0, 1, 2, 3, 4], outbox: &[0, 2, 3, 4], ..case }
        },
        {
            let mut case = Case { name: "two failures", ..Case::default() };
            for at in [1, 3] {
                case.messages[at] = back(Place::new(at).does(Do::Error), 1);
            }
            Case { ran: &[0, 1, 0, 1, 2, 3, 2, 3, 4], outbox: &[0, 2, 4], ..case }
        },
    ];
    if kind != Kind::Sqlite {
        // SQLite has one writer: whoever handles the message elsewhere is waited for.
        let mut case = Case { name: "a message that is being handled", ..Case::default() };
        case.messages[1] = back(Place::new(1), 0);
        case.messages[1].place.stage = Stage::InProgress;
        cases.push(Case { ran: &[0, 2, 3, 4], outbox: &[0, 2, 3, 4], ..case });
        cases.push(Case { name: "a lost answer, committed", lose: Some(true), ..Case::default() });
        cases.push(Case {
            name: "a lost answer, not committed",
            lose: Some(false),
            ran: &[0, 1, 2, 3, 4, 0, 1, 2, 3, 4],
            ..Case::default()
        });
        let mut unknown = Case { name: "a lost answer without records", lose: Some(true), ..Case::default() };
        unknown.setup.idempotency = false;
        for message in &mut unknown.messages {
            (message.told, message.rows) = ("nack", [1, 1, 0]);
            message.place.stage = Stage::Repeat(0);
        }
        cases.push(unknown);
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    check_all(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    check_all(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    check_all(Kind::Sqlite).await;
}

async fn check_all(kind: Kind) {
    let world = World::new(kind).await;
    let mut wrong = Vec::new();
    for case in cases(kind) {
        world.empty().await;
        let name = case.name;
        match tokio::time::timeout(BOUND, check(&world, case)).await {
            Ok(Ok(())) => {}
            Ok(Err(said)) => wrong.push(format!("{name}\n  {}", said.join("\n  "))),
            Err(_) => wrong.push(format!("{name}: not handled within {BOUND:?}")),
        }
    }
    assert!(wrong.is_empty(), "{kind:?}\n{}", wrong.join("\n"));
}

async fn check(world: &Arc<World>, case: Case) -> Result<(), Vec<String>> {
    let places: Vec<_> = case.messages.iter().map(|message| message.place.clone()).collect();
    let run = bus::Run::new(world.clone(), case.setup, places).await;
    if let Some(committed) = case.lose {
        world.lose_the_next_commit(committed);
    }
    run.handle().await;
    let mut wrong = Vec::new();
    let mut same = |what: String, expected: String, seen: String| {
        if expected != seen {
            wrong.push(format!("{what}: expected {expected}, seen {seen}"));
        }
    };
    same("ran".into(), format!("{:?}", case.ran), format!("{:?}", run.ran()));
    if case.setup.idempotency {
        same("outbox".into(), format!("{:?}", case.outbox), format!("{:?}", world.outbox().await));
    }
    same("answers lost".into(), usize::from(case.lose.is_some()).to_string(), world.lost().to_string());
    for (at, expected) in case.messages.iter().enumerate() {
        let id = run.id(at);
        let rows = world.rows(expected.place.order(), id).await;
        same(format!("message {at}"), expected.told.to_owned(), run.told(at));
        same(format!("rows of {at}"), format!("{:?}", expected.rows), format!("{rows:?}"));
        let attempts = world.attempts(id).await;
        same(format!("attempts of {at}"), expected.attempts.to_string(), attempts.to_string());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
