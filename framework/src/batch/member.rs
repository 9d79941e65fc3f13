//! One message of a batch, from its delivery to its end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    plan::Key,
    seat::{Event, Seat, Then, Verdict},
};
use crate::{
    bus::BusCore,
    context::Context,
    error::{Error, Result},
    headers,
    incoming::Incoming,
    pipeline::IncomingContext,
    store::backend::IdempotencyKey,
    transport::{Delivery, Repeat, Settlement, TransportError},
};

/// How the handling of a message ended.
pub(crate) struct End {
    pub(crate) result: Result<()>,
    /// It says nothing about whether handlers and commits work.
    pub(crate) says_nothing: bool,
}

impl End {
    pub(super) fn unreadable(cause: String) -> Self {
        Self { result: Err(Error::permanent(cause)), says_nothing: true }
    }

    fn later(error: Error) -> Self {
        Self { result: Err(error), says_nothing: true }
    }
}

pub(super) struct Member {
    core: Arc<BusCore>,
    state: State,
    acknowledged: Arc<AtomicBool>,
    pub(super) id: IdempotencyKey,
    pub(super) key: Option<Key>,
    /// Whether its handlers can share a unit of work with others.
    pub(super) shares: bool,
    /// What tells the messages of one batch handler from others; `None` without one.
    pub(super) gathers: Option<String>,
    pub(super) repeat: bool,
    /// Whether an attempt was counted for this batch.
    pub(super) counted: bool,
}

const NOT_HANDLED: &str = "the message was not handled";

enum State {
    Waiting(Incoming, Box<dyn Settlement>),
    Running(Pin<Box<dyn Future<Output = End> + Send>>, Waits),
    Ended(End),
}

/// What a pipeline waits for.
enum Waits {
    Nothing,
    Verdict(oneshot::Sender<Verdict>),
    Then(oneshot::Sender<Then>),
}

impl Member {
    /// The message of a delivery; an unreadable one comes back with the reason.
    pub(super) fn read(core: &Arc<BusCore>, mut delivery: Delivery) -> Result<Self, Box<(Delivery, String)>> {
        let incoming = match Incoming::read(&mut delivery) {
            Ok(incoming) => incoming,
            Err(cause) => return Err(Box::new((delivery, cause))),
        };
        let header = |name| incoming.headers.get(name);
        let key = header(headers::KEY)
            .map(|key| (header(headers::AGGREGATE).unwrap_or_default().to_owned(), key.to_owned()));
        let bases = header(headers::BASES).unwrap_or_default();
        let handlers = core.handlers.of(&incoming).unwrap_or_default();
        let gathers = handlers.iter().any(|handler| handler.gathers());
        let gathers = gathers.then(|| format!("{}\0{bases}", incoming.name));
        // Without handlers it fails, and is not to fail others.
        let shares = !handlers.is_empty() && handlers.iter().all(|handler| handler.shares());
        let acknowledged = Arc::new(AtomicBool::new(false));
        let settlement =
            Box::new(Noted { settlement: delivery.settlement, acknowledged: Arc::clone(&acknowledged) });
        Ok(Self {
            core: Arc::clone(core),
            acknowledged,
            id: IdempotencyKey { message_id: incoming.id, scope: core.name.clone() },
            key,
            shares,
            gathers,
            repeat: incoming.repeat == Repeat::Possible,
            counted: false,
            state: State::Waiting(incoming, settlement),
        })
    }

    /// Whether the message is done for the transport. What is not comes again.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Whether its pipeline runs and waits for nothing.
    pub(super) fn is_on_its_way(&self) -> bool {
        matches!(self.state, State::Running(_, Waits::Nothing))
    }

    /// Gives the message its seat in a try of the batch: its pipeline starts, or goes on after the last try.
    pub(super) fn sit(&mut self, seat: Seat) {
        let seat = Arc::new(seat);
        match self.take() {
            State::Waiting(incoming, settlement) => {
                self.start(Context::seated(Arc::clone(&self.core), incoming, Some(seat)), settlement);
            }
            state => {
                self.state = state;
                self.go_on(Then::Again(seat));
            }
        }
    }

    /// Runs the pipeline until it says something or ends. `None`: it ended before the message arrived anywhere.
    pub(super) async fn event(&mut self, events: &mut mpsc::Receiver<Event>) -> Option<Event> {
        let State::Running(pipeline, _) = &mut self.state else { return None };
        let end = tokio::select! {
            biased;
            Some(event) = events.recv() => return Some(event),
            end = pipeline => end,
        };
        self.state = State::Ended(end);
        None
    }

    /// Where the verdict of an arrived message goes.
    pub(super) fn waits_for(&mut self, verdict: oneshot::Sender<Verdict>) {
        if let State::Running(_, waits) = &mut self.state {
            *waits = Waits::Verdict(verdict);
        }
    }

    /// Tells a message that has arrived what became of it.
    pub(super) fn tell(&mut self, said: Verdict) {
        if let State::Running(_, waits) = &mut self.state {
            match std::mem::replace(waits, Waits::Nothing) {
                // Nobody waits only when the pipeline was dropped.
                Waits::Verdict(verdict) => drop(verdict.send(said)),
                other => *waits = other,
            }
        }
    }

    /// Lets a message that has arrived undo what is its own; its unit of work was rolled back.
    pub(super) async fn undo(&mut self, events: &mut mpsc::Receiver<Event>) {
        if !matches!(self.state, State::Running(_, Waits::Verdict(_))) {
            return;
        }
        self.tell(Verdict::RolledBack);
        if let Some(Event::Undone(then)) = self.event(events).await
            && let State::Running(_, waits) = &mut self.state
        {
            *waits = Waits::Then(then);
        }
    }

    fn go_on(&mut self, said: Then) {
        if let State::Running(_, waits) = &mut self.state
            && let Waits::Then(then) = std::mem::replace(waits, Waits::Nothing)
        {
            // Nobody waits only when the pipeline was dropped.
            drop(then.send(said));
        }
    }

    /// Handles the message alone, in a unit of work of its own.
    pub(super) async fn alone(&mut self) {
        match self.take() {
            State::Waiting(incoming, settlement) => {
                self.start(Context::seated(Arc::clone(&self.core), incoming, None), settlement);
            }
            state => {
                self.state = state;
                self.go_on(Then::Alone);
            }
        }
        self.finish().await;
    }

    /// Gives the message back because an earlier one of its key went back.
    pub(super) async fn hold_back(&mut self) {
        match self.take() {
            State::Waiting(_, settlement) => {
                let said = Error::later("an earlier message of its key went back");
                let given_back = settlement.nack(self.core.policy.pause).await;
                self.state = State::Ended(End::later(match given_back {
                    Ok(()) => said,
                    Err(error) => said.context(error),
                }));
            }
            state => {
                self.state = state;
                self.go_on(Then::HeldBack);
                self.finish().await;
            }
        }
    }

    /// Runs the pipeline to its end.
    pub(super) async fn finish(&mut self) {
        if let State::Running(pipeline, _) = &mut self.state {
            self.state = State::Ended(pipeline.await);
        }
    }

    pub(super) fn end(self) -> End {
        match self.state {
            State::Ended(end) => end,
            State::Waiting(..) | State::Running(..) => End::later(Error::later(NOT_HANDLED)),
        }
    }

    fn start(&mut self, context: Context, settlement: Box<dyn Settlement>) {
        let core = Arc::clone(&self.core);
        let pipeline = async move {
            let mut cx = IncomingContext::of(context, Some(settlement));
            let result = core.incoming.run(&mut cx).await;
            End { result, says_nothing: cx.says_nothing }
        };
        self.state = State::Running(Box::pin(pipeline), Waits::Nothing);
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Ended(End::later(Error::later(NOT_HANDLED))))
    }
}

/// Sees whether the message was acknowledged.
struct Noted {
    settlement: Box<dyn Settlement>,
    acknowledged: Arc<AtomicBool>,
}

#[async_trait]
impl Settlement for Noted {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.acknowledged.store(true, Ordering::Relaxed);
        self.settlement.ack().await
    }

    async fn nack(self: Box<Self>, after: Duration) -> Result<(), TransportError> {
        self.settlement.nack(after).await
    }
}
