//! A unit of work that is written by hand, a handler that registers one action of each kind, and actions that fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, Context, Error, HandWritten, Headers, Memory, Message, Result, RetryPolicy, Stage, State, Transport,
    headers,
    transport::{Delivery, Inbox, Repeat, Settlement, TransportError},
    unit_of_work::{CommitError, Unit},
};
use uuid::Uuid;

use crate::case::{Place, Placed};

/// What happened, in order. Upper case: the unit of work and the transport.
type Log = Arc<Mutex<Vec<String>>>;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Handler,
    Permanent,
    BeforeCommit,
    Commit,
    UnknownCommit,
    AfterCommit,
    AfterCommitPanics,
}

#[derive(Clone)]
struct Case {
    log: Log,
    wrong: Wrong,
    /// The actions of the last stages fail too, and so does what the transport and the unit are asked to do there.
    last_stages_fail: bool,
    commit_with_transaction: bool,
}

impl Case {
    fn saw(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    /// How an act of the last stages ends.
    fn last<E>(&self, error: E) -> Result<(), E> {
        if self.last_stages_fail { Err(error) } else { Ok(()) }
    }
}

struct Ledger(Case);

#[async_trait::async_trait]
impl Unit for Ledger {
    async fn commit(&mut self) -> Result<(), CommitError> {
        self.0.saw("COMMIT");
        match self.0.wrong {
            Wrong::Commit => Err(CommitError::Failed(Error::new("refused"))),
            Wrong::UnknownCommit => Err(CommitError::Unknown(Error::new("no answer"))),
            _ => Ok(()),
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.0.saw("ROLLBACK");
        self.0.last(Error::new("unit rollback failed"))
    }

    async fn close(&mut self) -> Result<()> {
        self.0.saw("CLOSE");
        self.0.last(Error::new("unit close failed"))
    }
}

struct Told(Case);

#[async_trait::async_trait]
impl Settlement for Told {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.saw("ACK");
        self.0.last(lost())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.saw("NACK");
        self.0.last(lost())
    }
}

fn lost() -> TransportError {
    TransportError::Lost { broker: "memory".into(), cause: "settling failed".into() }
}

async fn place(cmd: Place, cx: Context, State(case): State<Case>) -> Result<()> {
    case.saw(format!("handler {} of {}", cx.attempt(), cx.unit::<Ledger>().await?.0.commit_with_transaction));
    // The first action of each stage may fail, the second shows that it still runs.
    for stage in STAGES {
        for nth in [1, 2] {
            let case = (*case).clone();
            cx.transaction().on(stage, async move || {
                case.saw(if nth == 1 { format!("{stage:?}") } else { format!("{stage:?}2") });
                let last = matches!(stage, Stage::Rollback | Stage::Ack | Stage::Nack | Stage::Close);
                match (stage, case.wrong) {
                    _ if nth == 2 => Ok(()),
                    (Stage::BeforeCommit, Wrong::BeforeCommit) => Err(Error::new("before")),
                    (Stage::AfterCommit, Wrong::AfterCommit) => Err(Error::new("after")),
                    (Stage::AfterCommit, Wrong::AfterCommitPanics) => panic!("after"),
                    _ if last => case.last(Error::new("failed")),
                    _ => Ok(()),
                }
            })?;
        }
    }
    let errors = (*case).clone();
    cx.transaction().on_error(move |error| errors.saw(format!("! {error}")));
    cx.publish(Placed { id: cmd.id })?;
    match case.wrong {
        Wrong::Handler => Err(Error::new("asked to fail")),
        Wrong::Permanent => Err(Error::permanent("asked to fail for good")),
        _ => Ok(()),
    }
}

const STAGES: [Stage; 7] = [
    Stage::BeforeCommit,
    Stage::Commit,
    Stage::AfterCommit,
    Stage::Rollback,
    Stage::Ack,
    Stage::Nack,
    Stage::Close,
];

/// Handles one message and compares what happened, line by line.
async fn check(commit_with_transaction: bool, wrong: Wrong, last_stages_fail: bool, expected: &str) {
    let log = Log::default();
    let case = Case { log: Arc::clone(&log), wrong, last_stages_fail, commit_with_transaction };
    let network = Memory::new();
    network.declare(&Inbox::new("dead-letters")).await.unwrap();
    let made = case.clone();
    let unit = HandWritten::new(move |message: barid::Incoming| {
        let case = made.clone();
        async move {
            case.saw(format!("BEGIN {}", message.name));
            Ok(Ledger(case))
        }
    });
    let bus = Bus::builder("orders")
        .transport(network.clone())
        .unit_of_work(unit.commit_with_transaction(commit_with_transaction))
        .retry(RetryPolicy::default())
        .state(case.clone())
        .handler(place)
        .build()
        .unwrap();
    let delivery = Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, Place::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(&Place { id: 1 }).unwrap().into(),
        source: "orders".into(),
        repeat: Repeat::First,
        settlement: Box::new(Told(case)),
    };
    let handled = bus.handle(delivery).await;
    assert_eq!(handled.is_ok(), wrong == Wrong::Nothing, "{wrong:?}: {handled:?}");
    assert_eq!(network.len("dead-letters"), usize::from(wrong == Wrong::Permanent), "{wrong:?}");
    let seen = log.lock().unwrap().join(" ");
    let expected = format!("BEGIN orders.place handler 1 of {commit_with_transaction} {expected}");
    assert_eq!(seen, expected, "commit_with_transaction = {commit_with_transaction}, {wrong:?}");
}

#[tokio::test]
async fn right_after_the_handlers() {
    let before = "COMMIT CLOSE BeforeCommit BeforeCommit2 Commit Commit2";
    let done = format!("{before} AfterCommit AfterCommit2 ACK Ack Ack2 Close Close2");
    check(false, Wrong::Nothing, false, &done).await;
    check(false, Wrong::Handler, false, "ROLLBACK Rollback Rollback2 NACK Nack Nack2 CLOSE Close Close2")
        .await;
    check(false, Wrong::Permanent, false, "ROLLBACK Rollback Rollback2 ACK Ack Ack2 CLOSE Close Close2")
        .await;
    let refused = "COMMIT ROLLBACK Rollback Rollback2 NACK Nack Nack2 CLOSE Close Close2";
    check(false, Wrong::Commit, false, refused).await;
    let unknown = "COMMIT ! nobody knows whether the unit of work committed: no answer NACK Nack Nack2 CLOSE Close Close2";
    check(false, Wrong::UnknownCommit, false, unknown).await;
}

#[tokio::test]
async fn with_the_transaction() {
    let before = "BeforeCommit BeforeCommit2 Commit Commit2 COMMIT";
    let failed = "ROLLBACK Rollback Rollback2 NACK Nack Nack2 CLOSE Close Close2";
    let nacked = "NACK Nack Nack2 CLOSE Close Close2";
    let done = format!("{before} AfterCommit AfterCommit2 ACK Ack Ack2 CLOSE Close Close2");
    check(true, Wrong::Nothing, false, &done).await;
    check(true, Wrong::Handler, false, failed).await;
    check(true, Wrong::Permanent, false, "ROLLBACK Rollback Rollback2 ACK Ack Ack2 CLOSE Close Close2").await;
    check(true, Wrong::BeforeCommit, false, &format!("BeforeCommit {failed}")).await;
    check(true, Wrong::Commit, false, &format!("{before} {failed}")).await;
    let unknown = format!("{before} ! nobody knows whether the unit of work committed: no answer {nacked}");
    check(true, Wrong::UnknownCommit, false, &unknown).await;
    check(true, Wrong::AfterCommit, false, &format!("{before} AfterCommit ! after {nacked}")).await;
    // What is committed stays committed, however its after-commit action ends.
    let panicked = format!("{before} AfterCommit ! it panicked: after {nacked}");
    check(true, Wrong::AfterCommitPanics, false, &panicked).await;
}

#[tokio::test]
async fn failing_actions_of_the_last_stages_are_reported_and_the_rest_still_run() {
    let lost = "connection to memory lost: settling failed";
    let close =
        "CLOSE ! closing the unit of work: unit close failed Close ! in the Close stage: failed Close2";
    let done = format!(
        "BeforeCommit BeforeCommit2 Commit Commit2 COMMIT AfterCommit AfterCommit2 \
         ACK ! acknowledging: {lost} Ack ! in the Ack stage: failed Ack2 {close}"
    );
    check(true, Wrong::Nothing, true, &done).await;
    let failed = format!(
        "ROLLBACK ! rolling back: unit rollback failed Rollback ! in the Rollback stage: failed Rollback2 \
         NACK ! giving the message back: {lost} Nack ! in the Nack stage: failed Nack2 {close}"
    );
    check(true, Wrong::Handler, true, &failed).await;
}
