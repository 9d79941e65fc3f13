//! The world around the coordinator: one log, two branches, messages, and everybody who interferes.

use std::collections::BTreeSet;

use barid::distributed::core::{BranchKind, Decision, Input, Outcome, Phase, Protocol, State};

#[path = "messages.rs"]
mod messages;

/// Who waits for the answers to the messages of the dead.
const NOBODY: usize = usize::MAX;

/// What is built wrongly on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// The decision is written over another one.
    NoCompareAndSet,
    /// The decision is only in the memory of the coordinator.
    NoDurableDecision,
    /// Who could not commit everywhere rolls back.
    RollbackAfterPartialCommit,
    /// Recovery rolls back what was committed in part.
    RecoveryRollsBack,
    /// A branch that is not there any more when it is told to commit counts as committed.
    NotFoundMeansCommitted,
    /// A branch that is not there any more when it is told to roll back counts as rolled back.
    NotFoundMeansRolledBack,
    /// A branch that was pre-committed commits when nobody tells it anything.
    CommitsByItself,
    /// Recovery aborts without asking the last resource.
    LastNotAsked,
    /// Rolling back a branch that is not prepared leaves nothing that a late prepare could meet.
    NoTombstone,
    /// A prepare that did not answer counts as a no.
    TimeoutIsNo,
}

/// A branch, as its database sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rm {
    Active,
    Prepared,
    Committed,
    RolledBack,
    /// It said no, and undid its work.
    Refused,
    ReadOnly,
    /// Rolled back before it was prepared: the tombstone refuses a late prepare.
    Tombstone,
}

/// A message on its way to a database. They are derived from effects, with what a real one would carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Op {
    Record,
    Prepare(usize),
    PreCommit(usize),
    CommitLast(usize),
    AskLast(usize),
    /// The decision to commit, with the branches that have changed nothing.
    DecideCommit([bool; 2]),
    DecideAbort,
    Commit(usize),
    Rollback(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The coordinator first, then recoveries. `None`: not there, or crashed.
    actors: Vec<Option<State>>,
    kinds: [BranchKind; 2],
    home: bool,
    recorded: bool,
    decision: Option<Decision>,
    read_only: [bool; 2],
    closed: Option<Outcome>,
    rms: [Rm; 2],
    pre_committed: [bool; 2],
    /// Messages stay for as long as they can change anything: each may arrive never, late, or again and again, and each time its
    /// answer may be lost.
    requests: BTreeSet<(usize, Op)>,
    /// How the coordinator said that it ended, and whether it then believed that every branch had.
    said: Option<(Outcome, bool)>,
    operator_left: bool,
    by_hand: bool,
    flaw: Option<Flaw>,
}

impl World {
    pub(crate) fn new(protocol: Protocol, kinds: &[BranchKind; 2]) -> Self {
        let home = !kinds.contains(&BranchKind::Last);
        Self {
            actors: vec![Some(State::new(protocol, home, kinds)), None],
            kinds: *kinds,
            home,
            recorded: false,
            decision: None,
            read_only: [false; 2],
            closed: None,
            rms: [Rm::Active; 2],
            pre_committed: [false; 2],
            requests: BTreeSet::new(),
            said: None,
            operator_left: false,
            by_hand: false,
            flaw: None,
        }
    }

    pub(crate) fn recoveries(mut self, count: usize) -> Self {
        self.actors.resize(1 + count, None);
        self
    }

    pub(crate) fn operator(mut self) -> Self {
        self.operator_left = true;
        self
    }

    pub(crate) fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = Some(flaw);
        self
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Which promise is broken, if one is.
    pub(crate) fn broken(&self) -> Option<String> {
        let committed = |at: usize| self.rms[at] == Rm::Committed;
        let undone = |at: usize| matches!(self.rms[at], Rm::RolledBack | Rm::Refused | Rm::Tombstone);
        let any = |is: &dyn Fn(usize) -> bool| is(0) || is(1);
        let home_committed = self.home && self.decision == Some(Decision::Commit);
        let mixed = (any(&committed) || home_committed) && any(&undone)
            || any(&committed) && self.home && self.decision == Some(Decision::Abort);
        if mixed && !self.by_hand {
            return Some(format!("a mixed outcome: {:?}, decided {:?}", self.rms, self.decision));
        }
        // The last resource is committed before the decision is written; nobody else is.
        let early = |at: usize| committed(at) && self.kinds[at] == BranchKind::TwoPhase;
        if any(&early) && self.decision != Some(Decision::Commit) && !self.by_hand {
            return Some("committed without a decision".to_owned());
        }
        if let Some((outcome, complete)) = self.said {
            let wrong = match outcome {
                Outcome::Committed => self.decision == Some(Decision::Abort),
                Outcome::Aborted => self.decision == Some(Decision::Commit),
                _ => false,
            };
            if wrong && !self.by_hand {
                return Some(format!("said {outcome:?}, decided {:?}", self.decision));
            }
            if mixed && complete && matches!(outcome, Outcome::Committed | Outcome::Aborted) {
                return Some(format!("a silent mixed outcome: {:?}, said {outcome:?}", self.rms));
            }
        }
        if self.closed.is_some() && self.rms.contains(&Rm::Prepared) {
            return Some("a branch is prepared, and nobody will look for it".to_owned());
        }
        let silent = mixed && matches!(self.closed, Some(Outcome::Committed | Outcome::Aborted));
        silent.then(|| format!("a silent mixed outcome in the log: {:?}", self.rms))
    }

    /// Nothing is prepared, and the log knows how it ended, if it ever knew of it.
    pub(crate) fn is_finished(&self) -> bool {
        (self.closed.is_some() || !self.recorded) && !self.rms.contains(&Rm::Prepared)
    }

    pub(crate) fn successors(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for input in self.calls() {
            all.push(self.told(0, input));
        }
        for actor in 0..self.actors.len() {
            if self.actors[actor].as_ref().is_some_and(State::is_waiting) {
                all.push(self.timed_out(actor));
            }
        }
        for &(actor, op) in &self.requests {
            all.extend(self.arrived(actor, op));
        }
        if self.actors[0].is_some() {
            all.push(self.gone(0));
        }
        // From any other state of it, too: that is a recovery that was killed and started again.
        if self.recorded && self.closed.is_none() {
            all.extend((1..self.actors.len()).map(|actor| self.taken_over(actor)));
        }
        if self.operator_left {
            for at in 0..2 {
                for ended in [Rm::Committed, Rm::RolledBack] {
                    let mut next = self.clone();
                    if next.rms[at] == Rm::Prepared {
                        (next.rms[at], next.operator_left, next.by_hand) = (ended, false, true);
                        all.push(next);
                    }
                }
            }
        }
        if self.has(Flaw::CommitsByItself) {
            for at in (0..2).filter(|at| self.pre_committed[*at] && self.rms[*at] == Rm::Prepared) {
                let mut next = self.clone();
                next.rms[at] = Rm::Committed;
                all.push(next);
            }
        }
        for next in &mut all {
            next.forget();
        }
        all.retain(|next| next != self);
        all
    }

    /// Drops what can change nothing any more: actors that have ended, and messages that would find their work done and nobody
    /// who waits for the answer.
    fn forget(&mut self) {
        if let Some(state) = &self.actors[0]
            && let Phase::Ended(outcome) = state.phase
        {
            self.said = Some((outcome, state.pending().count() == 0));
        }
        for actor in &mut self.actors {
            if actor.as_ref().is_some_and(|state| matches!(state.phase, Phase::Ended(_))) {
                *actor = None;
            }
        }
        let requests = std::mem::take(&mut self.requests);
        for (actor, op) in requests {
            let waits = self.actors.get(actor).and_then(Option::as_ref).is_some_and(State::is_waiting);
            if waits {
                self.requests.insert((actor, op));
            } else if !self.is_done(op) {
                self.requests.insert((NOBODY, op));
            }
        }
    }

    /// Whether a message would change nothing, now and later.
    fn is_done(&self, op: Op) -> bool {
        match op {
            Op::Record => self.recorded,
            Op::Prepare(at) | Op::CommitLast(at) | Op::AskLast(at) => self.rms[at] != Rm::Active,
            Op::PreCommit(at) => self.pre_committed[at] || self.rms[at] != Rm::Prepared,
            Op::DecideCommit(_) | Op::DecideAbort if self.has(Flaw::NoDurableDecision) => true,
            Op::DecideCommit(_) | Op::DecideAbort => {
                self.decision.is_some() && !self.has(Flaw::NoCompareAndSet)
            }
            Op::Commit(at) | Op::Rollback(at) => !matches!(self.rms[at], Rm::Active | Rm::Prepared),
        }
    }

    /// What the caller may ask for now.
    fn calls(&self) -> Vec<Input> {
        let Some(state) = &self.actors[0] else { return Vec::new() };
        match state.phase {
            Phase::New => vec![Input::Begin],
            Phase::Active => vec![Input::Prepare, Input::Rollback],
            Phase::Prepared if state.protocol == Protocol::ThreePhase => {
                vec![Input::PreCommit, Input::Rollback]
            }
            Phase::Prepared | Phase::PreCommitted => vec![Input::Commit, Input::Rollback],
            Phase::Doomed => vec![Input::Rollback],
            _ => Vec::new(),
        }
    }
}
