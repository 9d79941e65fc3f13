//! A message's place in a batch, and its half of the conversation with the runner.
//!
//! Every message runs its own pipeline. The retry step calls [`take_part`], which runs the steps after it, then waits: the
//! runner goes on with the next message, commits for all, and tells each what became of it. So each step sees what it would
//! see without a batch.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::{
    completion::{self, Failure},
    context::{Context, UnitSlot},
    error::{Error, Result, panic_text},
    pipeline::{IncomingContext, Next, retry},
    schedule::Deferred,
    store::statement::Statement,
    transaction::Stage,
    transport::OutgoingRow,
};

/// A message's place in one try of a batch.
pub(crate) struct Seat {
    /// Whether the message was handled before.
    pub(crate) duplicate: bool,
    /// Where the unit of work is while the handlers of this message, or of those that are called with it, run.
    pub(crate) slot: Arc<AsyncMutex<UnitSlot>>,
    pub(super) events: mpsc::Sender<Event>,
}

/// What a message tells the runner.
pub(super) enum Event {
    /// It waits for its batch handler to be called.
    Parked(Parked),
    /// Its handlers have returned; it waits for the commit.
    Arrived(Result<Prepared>, oneshot::Sender<Verdict>),
    /// What is not the unit of work's was undone; it waits for what to do next.
    Undone(oneshot::Sender<Then>),
}

/// One message of a batch handler's call.
pub(super) struct Parked {
    pub(super) item: Box<dyn Any + Send>,
    pub(super) call: GroupCall,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

/// Calls a batch handler with the messages of all that are parked.
pub(super) type GroupCall =
    Box<dyn FnOnce(Vec<Box<dyn Any + Send>>) -> BoxFuture<'static, Result<()>> + Send>;

/// What a message adds to the closing text, and the context whose stages the commit runs.
pub(super) struct Prepared {
    pub(super) rows: Vec<OutgoingRow>,
    pub(super) deferred: Deferred,
    pub(super) statements: Vec<Statement>,
    pub(super) context: Context,
}

/// What became of a message in a batch.
pub(super) enum Verdict {
    /// It is durable. An error is that of sending what no outbox carries.
    Committed(Result<(), String>),
    /// Nobody knows, and why.
    Unknown(String),
    /// Nothing is durable.
    RolledBack,
}

/// What a message does whose unit of work was rolled back.
pub(super) enum Then {
    /// It tries again, in this seat.
    Again(Arc<Seat>),
    /// It tries again without others.
    Alone,
    /// It goes back to the transport, because an earlier message of its key did.
    HeldBack,
}

const NO_RUNNER: &str = "the batch of this message was dropped";

impl Seat {
    /// Waits until the batch handler was called with this message and others.
    pub(super) async fn park(&self, item: Box<dyn Any + Send>, call: GroupCall) -> Result<()> {
        self.ask(|answer| Event::Parked(Parked { item, call, answer })).await?
    }

    /// Says something that has an answer.
    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.tell(event(answer)).await?;
        answered.await.map_err(|_| Error::later(NO_RUNNER))
    }

    async fn tell(&self, event: Event) -> Result<()> {
        self.events.send(event).await.map_err(|_| Error::later(NO_RUNNER))
    }
}

/// Takes part in a batch, as long as the message has a seat. `None` when it is to be handled alone, from the beginning.
pub(crate) async fn take_part(
    cx: &mut IncomingContext,
    next: &Next<'_, IncomingContext>,
) -> Option<Result<()>> {
    let items = cx.context.transaction().items();
    while let Some(seat) = cx.context.0.seat.clone() {
        let prepared = prepare(cx, next).await;
        match seat.ask(|verdict| Event::Arrived(prepared, verdict)).await {
            Ok(Verdict::Committed(sent)) => return Some(finish(cx, next, sent).await),
            Ok(Verdict::Unknown(said)) => {
                let unknown = Failure::Unknown(Error::later(said));
                return Some(retry::fail(cx, next.clone(), unknown, false).await);
            }
            Ok(Verdict::RolledBack) => {}
            Err(error) => return Some(Err(error)),
        }
        undo(cx).await;
        let next_seat = match seat.ask(Event::Undone).await {
            Ok(Then::Again(seat)) => Some(seat),
            Ok(Then::Alone) => None,
            Ok(Then::HeldBack) => {
                let error = Error::later("an earlier message of its key went back");
                cx.says_nothing = true;
                return Some(retry::nack(cx, error, false).await);
            }
            Err(error) => return Some(Err(error)),
        };
        cx.start_over(next_seat);
        cx.context.transaction().keep(&items);
    }
    None
}

/// The steps after the retry step, and the before-commit stage.
async fn prepare(cx: &mut IncomingContext, next: &Next<'_, IncomingContext>) -> Result<Prepared> {
    let handled = async {
        next.clone().run(cx).await?;
        let (rows, deferred) = completion::before_commit(cx).await?;
        cx.context.transaction().complete();
        Ok(Prepared { rows, deferred, statements: cx.context.take_writes(), context: cx.context.clone() })
    };
    let answer = AssertUnwindSafe(handled).catch_unwind().await;
    answer.unwrap_or_else(|panic| {
        Err(Error::new(format!("the handler panicked: {}", panic_text(panic.as_ref()))))
    })
}

/// The stages after the commit.
async fn finish(
    cx: &mut IncomingContext,
    next: &Next<'_, IncomingContext>,
    sent: Result<(), String>,
) -> Result<()> {
    let after = match sent {
        Ok(()) => cx.context.transaction().clone().run(Stage::AfterCommit).await,
        Err(said) => Err(Error::new(said)),
    };
    match after {
        Ok(()) => {
            completion::acknowledge(cx).await;
            completion::close(cx).await;
            Ok(())
        }
        Err(error) => retry::fail(cx, next.clone(), Failure::AfterCommit(error), false).await,
    }
}

/// Undoes what is not the unit of work's; that was rolled back for all.
async fn undo(cx: &mut IncomingContext) {
    completion::roll_back(cx).await;
    cx.context.transaction().run_all(Stage::Close).await;
}
