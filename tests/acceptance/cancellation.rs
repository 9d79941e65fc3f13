//! A message whose handling is dropped after k polls, for every k, leaves nothing open and nothing half done.
//!
//! The pool of the bus has one connection: a connection that came back to it inside a transaction would be the next one that
//! somebody gets.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "cancellation/database.rs"]
mod database;

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use barid::{
    Bus, Context, Headers, Memory, Message, Outgoing, Result, SqlIdempotency, SqlOutbox, State, headers,
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::eventually;
use database::{Database, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A message that needs more polls than this hangs.
const POLLS_MAX: usize = 500;

/// So often the handling has to complete before a case is through.
const COMPLETED_IN_A_ROW: usize = 3;

/// How long a server may take to notice that a connection is gone.
const SOON: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct Place {
    id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed {
    id: i64,
}

/// What a bus has, and what kind of delivery it gets.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    commit_with_transaction: bool,
    /// Outbox and idempotency.
    safe: bool,
    /// The handler fails, so it is the rollback that is cut off.
    fails: bool,
    repeat: Repeat,
    /// The answer to COMMIT is lost, so it is the finding out that is cut off.
    lost: bool,
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
    let plain = Case {
        kind,
        commit_with_transaction: false,
        safe: false,
        fails: false,
        repeat: Repeat::First,
        lost: false,
    };
    let with = Case { commit_with_transaction: true, ..plain };
    let safe = Case { safe: true, ..with };
    for case in [plain, with, safe] {
        check(case).await;
        check(Case { fails: true, ..case }).await;
    }
    check(Case { repeat: Repeat::Possible, ..safe }).await;
    check(Case { repeat: Repeat::Possible, fails: true, ..safe }).await;
    check(Case { lost: true, ..safe }).await;
}

/// Every k until the handling completes, and a little further: an answer that is there already is one poll less.
async fn check(case: Case) {
    // Finding out takes a second connection. A new one has hundreds of polls (sqlx yields while it computes the proof for
    // PostgreSQL's SCRAM), so it is there already.
    let connections = if case.lost { 2 } else { 1 };
    let database = Database::new(case.kind, connections).await;
    database.borrow_and_commit(0).await;
    let bus = bus(case, &database);
    let mut completed = 0;
    for polls in 1.. {
        assert!(polls < POLLS_MAX, "{case:?} is not handled after {polls} polls");
        if case.lost {
            database.lose_the_next_commit();
        }
        let (id, message) = (i64::try_from(polls).unwrap(), Uuid::now_v7());
        let handled = polled(polls, bus.handle(delivery(case, id, message))).await;
        // The next borrower first: a transaction that is still open on its connection would take the row.
        database.borrow_and_commit(id).await;
        eventually(SOON, &format!("{case:?} cut off after {polls} polls leaves nothing open"), || {
            database.nothing_is_open()
        })
        .await;
        let borrowed = database.borrowed(id).await;
        assert_eq!(
            borrowed,
            i64::from(connections),
            "{case:?}, {polls} polls: the next borrower's row is gone"
        );
        let rows = database.rows(id, message).await;
        let all_or_nothing = if case.safe { [[0, 0, 0], [1, 1, 1]] } else { [[0, 0, 0], [1, 0, 0]] };
        assert!(all_or_nothing.contains(&rows), "{case:?}, {polls} polls: {rows:?}");
        let Some(handled) = handled else {
            completed = 0;
            continue;
        };
        assert!(polls > 1, "{case:?} was handled by one poll");
        assert_eq!(handled.is_err(), case.fails, "{case:?}: {handled:?}");
        assert_eq!(rows[0], i64::from(!case.fails), "{case:?}");
        completed += 1;
        if completed == COMPLETED_IN_A_ROW {
            assert!(
                !case.lost || database.lost_commits() >= COMPLETED_IN_A_ROW,
                "{case:?}: no answer was lost"
            );
            return;
        }
    }
}

fn bus(case: Case, database: &Database) -> Bus {
    let bus = Bus::builder("orders").transport(Memory::new()).state(case).handler(place);
    let bus = database.unit_of_work(bus, case.commit_with_transaction);
    let bus = if case.safe { bus.outbox(SqlOutbox::new()).idempotency(SqlIdempotency::new()) } else { bus };
    bus.build().unwrap()
}

async fn place(cmd: Place, cx: Context, State(case): State<Case>) -> Result<()> {
    database::insert(&cx, case.kind, cmd.id).await?;
    cx.publish(Outgoing::new(Placed { id: cmd.id }).key(cmd.id))?;
    // Something to wait for that is no statement.
    tokio::task::yield_now().await;
    if case.fails { Err(barid::Error::new("asked to fail")) } else { Ok(()) }
}

/// Polls `future` exactly `polls` times, each time when it asked to be, and then drops it. `None`: it was not ready.
async fn polled<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            polls -= 1;
            if polls == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

fn delivery(case: Case, id: i64, message: Uuid) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, message.to_string()),
            (headers::TYPE, Place::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&Place { id }).unwrap().into(),
        source: "orders".into(),
        repeat: case.repeat,
        settlement: Box::new(Slow),
    }
}

/// A transport that takes a moment, so that settling can be cut off too.
struct Slow;

#[async_trait::async_trait]
impl Settlement for Slow {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        tokio::task::yield_now().await;
        Ok(())
    }
}
