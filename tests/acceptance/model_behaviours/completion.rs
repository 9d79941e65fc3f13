//! The transaction context: which actions run, in which order, and what their failures do.

use barid::{Context, Error, Memory, Result, Stage, State, transaction::Completed};
use barid_tests::eventually;
use futures::FutureExt;
use uuid::Uuid;

use crate::stage::{Journal, Place, bus, delivery, unanswerable};

/// What the handler of [`completes`] does.
#[derive(Clone, Copy)]
struct Script {
    /// The action that fails.
    failing: Option<Stage>,
    /// How the handler itself ends.
    error: Option<fn() -> Error>,
}

async fn play(_: Place, cx: Context, script: State<Script>, journal: State<Journal>) -> Result<()> {
    journal.0.watch(&cx, script.0.failing)?;
    script.0.error.map_or(Ok(()), |error| Err(error()))
}

/// The journal of one message.
async fn completes(failing: Option<Stage>, error: Option<fn() -> Error>, answerable: bool) -> Vec<String> {
    let journal = Journal::default();
    let bus = bus(&Memory::new()).await.handler(play).state(Script { failing, error }).state(journal.clone());
    let bus = bus.build().unwrap();
    let message = Uuid::now_v7();
    let delivery = if answerable { delivery(message, 1) } else { unanswerable(message, 1) };
    // What became of it is in the journal.
    drop(bus.handle(delivery).await);
    journal.read()
}

#[tokio::test]
async fn each_ending_has_its_order() {
    let fails: fn() -> Error = || Error::new("no");
    let hopeless: fn() -> Error = || Error::permanent("never");
    let cases: [(_, _, &[&str]); 9] = [
        (None, None, &["commit", "ack", "close"]),
        (None, Some(fails), &["rollback", "nack", "close"]),
        (None, Some(hopeless), &["rollback", "ack", "close"]),
        // Ours: a commit that fails rolls back, and a rollback that fails is reported.
        (Some(Stage::Commit), None, &["commit", "rollback", "nack", "close"]),
        (Some(Stage::Rollback), Some(fails), &["rollback", "error", "nack", "close"]),
        (Some(Stage::Ack), None, &["commit", "ack", "error", "close"]),
        (Some(Stage::Nack), Some(fails), &["rollback", "nack", "error", "close"]),
        (Some(Stage::Close), None, &["commit", "ack", "close", "error"]),
        (Some(Stage::Close), Some(fails), &["rollback", "nack", "close", "error"]),
    ];
    for (failing, error, expected) in cases {
        let happened = completes(failing, error, true).await;
        assert_eq!(happened, expected, "failing: {failing:?}, error: {:?}", error.map(|error| error()));
    }
}

#[tokio::test]
async fn an_answer_that_the_transport_does_not_take_is_reported_once_and_closing_goes_on() {
    assert_eq!(completes(None, None, false).await, ["commit", "error", "ack", "close"]);
    let failed = completes(None, Some(|| Error::new("no")), false).await;
    assert_eq!(failed, ["rollback", "error", "nack", "close"]);
}

#[tokio::test]
async fn a_message_that_is_dropped_rolls_back() {
    async fn stall(_: Place, cx: Context, journal: State<Journal>) -> Result<()> {
        journal.0.watch(&cx, None)?;
        std::future::pending().await
    }
    let journal = Journal::default();
    let bus = bus(&Memory::new()).await.handler(stall).state(journal.clone()).build().unwrap();
    assert!(bus.handle(delivery(Uuid::now_v7(), 1)).now_or_never().is_none());
    eventually(std::time::Duration::from_secs(10), "the context rolls back", async || {
        journal.read() == ["rollback", "nack", "close"]
    })
    .await;
}

#[tokio::test]
async fn nothing_can_be_registered_once_the_context_is_completed() {
    const ALL: [Stage; 7] = [
        Stage::BeforeCommit,
        Stage::Commit,
        Stage::AfterCommit,
        Stage::Rollback,
        Stage::Ack,
        Stage::Nack,
        Stage::Close,
    ];
    async fn late(_: Place, cx: Context, journal: State<Journal>) -> Result<()> {
        let context = cx.clone();
        cx.transaction().after_commit(async move || {
            for stage in ALL {
                let refused = context.transaction().on(stage, async || Ok(()));
                assert_eq!(refused, Err(Completed(stage)));
                journal.0.write("refused");
            }
            Ok(())
        })?;
        Ok(())
    }
    let journal = Journal::default();
    let bus = bus(&Memory::new()).await.handler(late).state(journal.clone()).build().unwrap();
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!(journal.read(), ["refused"; ALL.len()]);
}

#[tokio::test]
async fn messages_that_are_handled_at_the_same_time_have_contexts_of_their_own() {
    async fn keep(
        cmd: Place,
        cx: Context,
        both: State<tokio::sync::Barrier>,
        journal: State<Journal>,
    ) -> Result<()> {
        cx.transaction().insert(cmd.id);
        both.0.wait().await;
        journal.0.write(format!("{} {:?}", cmd.id, cx.transaction().get::<i64>().unwrap()));
        Ok(())
    }
    let journal = Journal::default();
    let bus =
        bus(&Memory::new()).await.handler(keep).state(tokio::sync::Barrier::new(2)).state(journal.clone());
    let bus = bus.build().unwrap();
    let one = bus.handle(delivery(Uuid::now_v7(), 1));
    let two = bus.handle(delivery(Uuid::now_v7(), 2));
    let (one, two) = tokio::join!(one, two);
    one.and(two).unwrap();
    let mut seen = journal.read();
    seen.sort();
    assert_eq!(seen, ["1 1", "2 2"]);
}
