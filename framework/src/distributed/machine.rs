//! Carries out what the core says: the effects of one phase, all at once, until nobody is waited for.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tracing::{Instrument, Span};

use super::{
    coordinator::Shared,
    core::{
        self, Answer, BranchKind, BranchState, Decision, Effect, Input, Outcome, Phase, Refusal, State, step,
    },
    crash,
    home::Home,
    ids::{BranchId, Gid},
    label::Label,
    log::{BranchRecord, Closing, NewTransaction, STALE},
    participant::{Ack, RmError, TransactionParticipant, Vote},
    status::Seen,
    watch::Watch,
};
use crate::{error::panic_text, limits, unit_of_work::CommitError};

/// One branch and who carries it.
pub(super) struct Part {
    pub(super) record: BranchRecord,
    pub(super) participant: Arc<dyn TransactionParticipant>,
}

/// One transaction under way, in a coordinator or in recovery.
pub(super) struct Machine {
    pub(super) shared: Arc<Shared>,
    pub(super) gid: Gid,
    /// What people call it.
    pub(super) label: Label,
    /// How long it may be undecided.
    pub(super) deadline: Duration,
    pub(super) core: State,
    pub(super) parts: Vec<Part>,
    pub(super) home: Option<Arc<dyn Home>>,
    /// What each branch said last, if it was no plain success.
    pub(super) said: Vec<Option<String>>,
    /// Why it does not commit, in the words of whoever was first.
    pub(super) cause: Option<String>,
    /// How often recovery has taken it; `None` in the coordinator.
    pub(super) attempts: Option<u32>,
    /// Whether nobody has decided it for too long.
    pub(super) stale: bool,
    /// Whether a human has to change something before it can end.
    pub(super) needs_help: bool,
    /// For whoever looks at it from the outside.
    pub(super) seen: Arc<Mutex<Seen>>,
    /// Tells about it.
    pub(super) watch: Watch,
}

/// What came back of an effect.
struct Said {
    input: Option<Input>,
    place: Option<usize>,
    error: Option<Trouble>,
}

/// What somebody said who did not do it.
struct Trouble {
    text: String,
    /// Whether a human has to change something before it can work.
    needs_help: bool,
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, needs_help: false }
    }
}

impl From<RmError> for Trouble {
    fn from(error: RmError) -> Self {
        let needs_help = matches!(error, RmError::Config(_) | RmError::Permanent(_));
        Self { text: error.to_string(), needs_help }
    }
}

impl Said {
    fn nothing(error: Option<String>) -> Self {
        Self { input: None, place: None, error: error.map(Trouble::from) }
    }

    fn of(input: Input) -> Self {
        Self { input: Some(input), place: None, error: None }
    }
}

impl Machine {
    pub(super) fn branch(&self, place: usize) -> BranchId {
        // There are no more branches than that.
        let ordinal = u16::try_from(place).unwrap_or(u16::MAX);
        BranchId { coordinator: self.shared.id, gid: self.gid, ordinal }
    }

    /// Feeds an input and everything that follows from it.
    pub(super) async fn drive(&mut self, input: Input) -> Result<(), Refusal> {
        let (mut next, mut running) = (Some(input), FuturesUnordered::<BoxFuture<'static, Said>>::new());
        loop {
            if let Some(input) = next.take() {
                let (state, effects) = step(self.core.clone(), input);
                self.core = state;
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).look(&self.core);
                self.watch.look(&self.core, input);
                crash::after(&self.core, input, self.attempts.is_some());
                for effect in effects {
                    if let Effect::Refuse(refusal) = effect {
                        return Err(refusal);
                    }
                    running.push(self.carry_out(effect).instrument(self.span(effect)).boxed());
                }
            }
            let Some(said) = running.next().await else { return Ok(()) };
            if let Some(trouble) = said.error {
                self.needs_help |= trouble.needs_help;
                self.heard(said.place, &trouble.text);
            }
            next = said.input;
        }
    }

    fn heard(&mut self, place: Option<usize>, error: &str) {
        let named = match place.and_then(|place| self.parts.get(place)) {
            Some(part) => format!("branch {:?} on {}: {error}", part.record.name, part.record.resource),
            None => error.to_owned(),
        };
        tracing::warn!(target: "transactions", gid = %self.gid, phase = ?self.core.phase, "{named}");
        if let Some(said) = place.and_then(|place| self.said.get_mut(place)) {
            *said = Some(error.chars().take(limits::ERROR_TEXT_BYTES_MAX / 4).collect());
        }
        self.cause.get_or_insert(named);
    }

    fn span(&self, effect: Effect) -> Span {
        let (txn, correlation) = (self.gid, self.label.correlation_id.as_deref());
        macro_rules! span {
            ($name:literal, $at:expr) => {{
                let branch: Option<&str> = $at.map(|at| self.named(at));
                tracing::debug_span!(target: "transactions", $name, %txn, branch, correlation)
            }};
        }
        match effect {
            Effect::Record => span!("dtx.begin", None::<usize>),
            Effect::Prepare(at) | Effect::PreCommit(at) => span!("dtx.prepare", Some(at)),
            Effect::Decide(_) => span!("dtx.decide", None::<usize>),
            Effect::Commit(at) | Effect::CommitLast(at) => span!("dtx.commit", Some(at)),
            Effect::Rollback(at) | Effect::AskLast(at) => span!("dtx.rollback", Some(at)),
            Effect::Close | Effect::NotePreCommitted | Effect::Refuse(_) => Span::none(),
        }
    }

    fn named(&self, at: usize) -> &str {
        self.parts.get(at).map_or("?", |part| &part.record.name)
    }

    fn carry_out(&self, effect: Effect) -> BoxFuture<'static, Said> {
        let timeouts = self.shared.settings.timeouts;
        match effect {
            Effect::Record => self.record(),
            Effect::Prepare(at) => self.ask(at, timeouts.prepare, "prepare", |part, branch| async move {
                let vote = part.prepare(&branch).await;
                move |at| match vote {
                    Ok(Vote::Prepared) => (Input::Voted(at, Answer::Prepared), None),
                    Ok(Vote::ReadOnly) => (Input::Voted(at, Answer::ReadOnly), None),
                    Ok(Vote::No { reason }) => (Input::Voted(at, Answer::No), Some(reason.into())),
                    Err(error) => (Input::Voted(at, Answer::Unknown), Some(error.into())),
                }
            }),
            Effect::PreCommit(at) => {
                self.ask(at, timeouts.pre_commit, "pre-commit", |part, branch| async move {
                    let answer = part.pre_commit(&branch).await;
                    move |at| (Input::PreCommitted(at, answer.is_ok()), answer.err().map(Trouble::from))
                })
            }
            Effect::Commit(at) => self.ask(at, timeouts.commit, "commit", |part, branch| async move {
                let ack = part.commit(&branch).await;
                move |at| acked(at, ack)
            }),
            Effect::Rollback(at) => self.ask(at, timeouts.abort, "roll back", |part, branch| async move {
                let ack = part.rollback(&branch).await;
                move |at| acked(at, ack)
            }),
            Effect::CommitLast(at) => self.ask(at, timeouts.commit, "commit", |part, branch| async move {
                let ack = part.commit(&branch).await;
                move |_| match ack {
                    Ok(Ack::Done) => (Input::LastAnswered(Some(Decision::Commit)), None),
                    Ok(other) => (Input::LastAnswered(None), Some(format!("{other:?}").into())),
                    Err(error) => (Input::LastAnswered(None), Some(error.into())),
                }
            }),
            Effect::AskLast(at) => self.ask(at, timeouts.abort, "find out", |part, branch| async move {
                let ack = part.rollback(&branch).await;
                move |_| match ack {
                    Ok(Ack::Done) => (Input::LastAnswered(Some(Decision::Abort)), None),
                    Ok(Ack::Heuristic(core::Heuristic::Committed)) => {
                        (Input::LastAnswered(Some(Decision::Commit)), None)
                    }
                    Ok(other) => (Input::LastAnswered(None), Some(format!("{other:?}").into())),
                    Err(error) => (Input::LastAnswered(None), Some(error.into())),
                }
            }),
            Effect::Decide(decision) => self.decide(decision),
            Effect::Close => self.close(),
            Effect::NotePreCommitted | Effect::Refuse(_) => {
                futures::future::ready(Said::nothing(None)).boxed()
            }
        }
    }

    /// Calls a participant; what it does not answer in time, or by a panic, is unknown.
    fn ask<F, Fut, A>(
        &self,
        at: usize,
        bound: Duration,
        what: &'static str,
        call: F,
    ) -> BoxFuture<'static, Said>
    where
        F: FnOnce(Arc<dyn TransactionParticipant>, BranchId) -> Fut + Send + 'static,
        Fut: Future<Output = A> + Send + 'static,
        A: FnOnce(usize) -> (Input, Option<Trouble>) + Send,
    {
        let unknown = match self.core.phase {
            Phase::Preparing => Input::Voted(at, Answer::Unknown),
            Phase::PreCommitting => Input::PreCommitted(at, false),
            Phase::AskingLast => Input::LastAnswered(None),
            _ => Input::Acked(at, core::Ack::Later),
        };
        let Some(part) = self.parts.get(at) else { return futures::future::ready(Said::of(unknown)).boxed() };
        let call = AssertUnwindSafe(call(Arc::clone(&part.participant), self.branch(at))).catch_unwind();
        async move {
            let (input, error) = match tokio::time::timeout(bound, call).await {
                Ok(Ok(answer)) => answer(at),
                Ok(Err(panic)) => {
                    (unknown, Some(format!("{what} panicked: {}", panic_text(panic.as_ref())).into()))
                }
                Err(_) => (unknown, Some(format!("{what} was not answered within {bound:?}").into())),
            };
            Said { input: Some(input), place: Some(at), error }
        }
        .boxed()
    }

    fn record(&self) -> BoxFuture<'static, Said> {
        let mut label = self.label.clone();
        label.principal.get_or_insert_with(|| self.shared.settings.principal.clone());
        let new = NewTransaction {
            gid: self.gid,
            label,
            name_kept_for: self.shared.settings.name_kept_for,
            protocol: self.core.protocol,
            home: self.core.home,
            deadline: self.deadline,
            branches: self.parts.iter().map(|part| part.record.clone()).collect(),
            findable: self.findable(),
        };
        let log = Arc::clone(&self.shared.log);
        async move {
            let error = log.open(&new).await.err();
            Said {
                error: error.as_ref().map(|error| error.to_string().into()),
                ..Said::of(Input::Recorded(error.is_none()))
            }
        }
        .boxed()
    }

    fn decide(&self, decision: Decision) -> BoxFuture<'static, Said> {
        let (log, home, gid) = (Arc::clone(&self.shared.log), self.home.clone(), self.gid);
        let logged = self.core.is_logged() || self.attempts.is_some();
        let read_only = |branch: &core::Branch| branch.state == BranchState::ReadOnly;
        let places = self.core.branches.iter().enumerate().filter(|(_, branch)| read_only(branch));
        let read_only: Vec<u16> = places.filter_map(|(at, _)| u16::try_from(at).ok()).collect();
        let reason = match (&self.cause, self.attempts) {
            (_, Some(_)) if self.stale => STALE.to_owned(),
            (Some(cause), _) => cause.clone(),
            (None, Some(_)) => "recovery: no decision within the deadline".to_owned(),
            (None, None) => "asked for".to_owned(),
        };
        let deciding = async move {
            match (decision, home) {
                (Decision::Commit, Some(home)) => match home.commit(logged.then_some((gid, read_only))).await
                {
                    Ok(()) => (Some(Decision::Commit), None),
                    Err(CommitError::Failed(error)) if !logged => {
                        (Some(Decision::Abort), Some(error.to_string()))
                    }
                    Err(error) => (None, Some(error.to_string())),
                },
                (decision, home) => {
                    // First of all: the row of the log, or on SQLite the whole file, is locked until then.
                    let failed = match home {
                        Some(home) => home.rollback().await.err().map(|error| error.to_string()),
                        None => None,
                    };
                    if !logged {
                        return (Some(decision), failed);
                    }
                    match log.decide(gid, decision, &read_only, &reason).await {
                        Ok(standing) => (Some(standing), failed),
                        Err(error) => (None, Some(error.to_string())),
                    }
                }
            }
        };
        let bound = self.shared.settings.timeouts.commit;
        async move {
            let answer = tokio::time::timeout(bound, AssertUnwindSafe(deciding).catch_unwind()).await;
            let (standing, error) = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(panic)) => (None, Some(format!("deciding panicked: {}", panic_text(panic.as_ref())))),
                Err(_) => (None, Some(format!("the decision was not answered within {bound:?}"))),
            };
            Said { error: error.map(Trouble::from), ..Said::of(Input::Decided(standing)) }
        }
        .boxed()
    }

    /// Whether every branch is one that recovery finds without the log. A last resource is none: its commit is the decision. Somebody
    /// may ask for a name in another process.
    fn findable(&self) -> bool {
        self.label.name.is_none()
            && self.parts.iter().all(|Part { record, .. }| {
                record.kind == BranchKind::TwoPhase && self.shared.resources.contains_key(&record.resource)
            })
    }

    fn close(&self) -> BoxFuture<'static, Said> {
        let Phase::Ended(outcome) = self.core.phase else {
            return futures::future::ready(Said::nothing(None)).boxed();
        };
        let pending = self.core.pending().next().is_some();
        if let Outcome::Heuristic(heuristic) = outcome {
            let what = format!(
                "{heuristic:?}: {}",
                self.cause.as_deref().unwrap_or("a branch ended in another way")
            );
            self.shared.alert(self.gid, &what);
        }
        let recovering = self.attempts.is_some();
        if !self.core.is_logged() && !recovering {
            return futures::future::ready(Said::nothing(None)).boxed();
        }
        let branches = self.core.branches.iter().zip(&self.said).enumerate();
        let branches = branches
            .map(|(at, (branch, said))| (u16::try_from(at).unwrap_or(u16::MAX), branch.state, said.clone()));
        let again_in = again_in(self.attempts.unwrap_or(0));
        let given_up = self.stale
            || self.needs_help
            || self.attempts.is_some_and(|times| times >= limits::DISTRIBUTED_ALERT_AFTER);
        let needs_help = (recovering && pending && given_up)
            .then(|| self.cause.clone().unwrap_or_else(|| "recovery cannot complete it".to_owned()));
        let repeatable = !recovering
            && !pending
            && matches!(outcome, Outcome::Committed | Outcome::Aborted)
            && self.findable();
        let branches = branches.collect();
        let closing = Closing { outcome, branches, pending, again_in, needs_help, repeatable };
        let (log, gid) = (Arc::clone(&self.shared.log), self.gid);
        async move {
            let error = log.close(gid, &closing).await.err().map(|error| error.to_string());
            if let Outcome::Heuristic(heuristic) = closing.outcome
                && let Err(error) = log.note(gid, "heuristic outcome", &format!("{heuristic:?}")).await
            {
                tracing::warn!(target: "transactions", %gid, %error, "a heuristic outcome could not be noted");
            }
            crash::point(if recovering { "r4" } else { "c13" });
            Said::nothing(error)
        }
        .boxed()
    }
}

fn acked(at: usize, ack: Result<Ack, RmError>) -> (Input, Option<Trouble>) {
    match ack {
        Ok(Ack::Done) => (Input::Acked(at, core::Ack::Done), None),
        Ok(Ack::Heuristic(heuristic)) => (
            Input::Acked(at, core::Ack::Heuristic(heuristic)),
            Some(format!("ended by itself or by hand: {heuristic:?}").into()),
        ),
        Err(error) => (Input::Acked(at, core::Ack::Later), Some(error.into())),
    }
}

/// The pause before recovery tries again: doubles from a second to a minute. What is decided is tried for ever.
fn again_in(attempts: u32) -> Duration {
    limits::DISTRIBUTED_AGAIN.saturating_mul(1 << attempts.min(16)).min(limits::DISTRIBUTED_AGAIN_MAX)
}
