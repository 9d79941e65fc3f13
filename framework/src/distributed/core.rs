//! The coordinator as a pure function: from a state and an input to a new state and effects.
//!
//! The shell ([`DistributedUnitOfWork`](super::DistributedUnitOfWork)) and recovery carry out the effects and feed their answers
//! back; the models of the test suite drive the same function through every order of answers, losses and crashes. There is no I/O
//! here and no clock: time comes in as [`Input::Timeout`].
//!
//! What it promises: no branch is committed before the decision to commit stands, none is rolled back before the decision to
//! abort stands, and after a decision nothing ever asks for the other one. An answer that did not come is no answer.

mod outcome;
mod steps;
#[cfg(test)]
mod tests;
mod words;

pub use outcome::{Heuristic, Outcome};
pub use words::{Ack, Answer, Effect, Input, Refusal};

/// How many rounds there are before the decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Prepare, decide.
    #[default]
    TwoPhase,
    /// Prepare, pre-commit, decide: everybody is asked once more whether they can be reached. Nobody ends by a timeout: the log
    /// decides, so an undecided transaction is aborted after the pre-commit as well.
    ThreePhase,
}

/// What a transaction comes to. Written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Every branch commits, however long it takes.
    Commit,
    /// Every branch rolls back.
    Abort,
}

/// What a branch can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchKind {
    /// It can be prepared, and then commits or rolls back when it is told to.
    TwoPhase,
    /// It can only commit. It is asked when all others are prepared; its own commit is the commit point.
    Last,
}

/// Where a branch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchState {
    /// It takes part and was not asked.
    Registered,
    /// It was asked to prepare.
    Preparing,
    /// It has promised to commit when it is told to.
    Prepared,
    /// It has changed nothing and has left.
    ReadOnly,
    /// It said no, and has undone its work.
    Refused,
    /// It was asked and did not answer: it may be prepared.
    Unknown,
    /// It has committed.
    Committed,
    /// It was told to commit and has not confirmed it.
    CommitFailed,
    /// It has rolled back, and can no longer prepare.
    RolledBack,
    /// It was told to roll back and has not confirmed it.
    RollbackFailed,
    /// It ended by itself or by hand, in another way than it was told to.
    Heuristic(Heuristic),
}

impl BranchState {
    /// Whether nothing is left to do for it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::ReadOnly | Self::Refused | Self::Committed | Self::RolledBack | Self::Heuristic(_)
        )
    }
}

/// Where the transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing happened.
    New,
    /// The log is asked to write down who takes part.
    Recording,
    /// Work goes on in the branches.
    Active,
    /// The branches are asked to prepare.
    Preparing,
    /// Every branch is prepared or has changed nothing.
    Prepared,
    /// Somebody cannot commit, or did not say: only a rollback is possible.
    Doomed,
    /// The branches are asked once more.
    PreCommitting,
    /// All of them answered.
    PreCommitted,
    /// The last resource is asked to commit, or what became of that.
    AskingLast,
    /// The log is asked.
    Deciding(Decision),
    /// The branches are told to commit.
    Committing,
    /// The branches are told to roll back.
    RollingBack,
    /// Over, as far as this coordinator is concerned. Branches that are not final are left to recovery.
    Ended(Outcome),
}

/// One branch, as the coordinator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// What it can do.
    pub kind: BranchKind,
    /// Where it is.
    pub state: BranchState,
    waiting: bool,
}

/// Everything the coordinator knows of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// How many rounds.
    pub protocol: Protocol,
    /// Where it is.
    pub phase: Phase,
    /// Who takes part.
    pub branches: Vec<Branch>,
    /// Whether the home database takes part with work of its own.
    pub home: bool,
    /// The decision, once one stands.
    pub decision: Option<Decision>,
    /// Whether the log was asked to commit: then only the log knows.
    asked_commit: bool,
    /// Whether the last resource was asked to commit: then only it knows.
    asked_last: bool,
}

impl State {
    /// A transaction with these branches, in the order of their registration.
    #[must_use]
    pub fn new(protocol: Protocol, home: bool, kinds: &[BranchKind]) -> Self {
        let branch =
            |kind: &BranchKind| Branch { kind: *kind, state: BranchState::Registered, waiting: false };
        Self {
            protocol,
            phase: Phase::New,
            branches: kinds.iter().map(branch).collect(),
            home,
            decision: None,
            asked_commit: false,
            asked_last: false,
        }
    }

    /// A transaction as the log knows it, for [`Input::Recover`].
    #[must_use]
    pub fn recovered(branches: &[(BranchKind, BranchState)], home: bool, decision: Option<Decision>) -> Self {
        let branch = |&(kind, state): &(BranchKind, BranchState)| Branch { kind, state, waiting: false };
        let branches = branches.iter().map(branch).collect();
        Self { branches, decision, ..Self::new(Protocol::TwoPhase, home, &[]) }
    }

    /// Whether it has to be in the log: one resource alone is atomic by itself.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        match self.branches.as_slice() {
            [] => false,
            [only] => self.home || only.kind != BranchKind::Last,
            _ => true,
        }
    }

    /// The branches that recovery has to complete.
    pub fn pending(&self) -> impl Iterator<Item = usize> {
        let open = |(at, branch): (usize, &Branch)| (!branch.state.is_final()).then_some(at);
        self.branches.iter().enumerate().filter_map(open)
    }

    /// How it ended, or how it ends when every branch that is left follows the decision.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        outcome::of(self.decision.unwrap_or(Decision::Abort), self)
    }

    /// Whether an answer is still waited for.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.branches.iter().any(|branch| branch.waiting)
            || matches!(self.phase, Phase::Recording | Phase::AskingLast | Phase::Deciding(_))
    }

    fn last(&self) -> Option<usize> {
        self.branches.iter().position(|branch| branch.kind == BranchKind::Last)
    }

    /// Sends every branch that `chosen` picks on its way.
    fn each(
        &mut self,
        chosen: impl Fn(&Branch) -> Option<BranchState>,
        effect: fn(usize) -> Effect,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (at, branch) in self.branches.iter_mut().enumerate() {
            if let Some(state) = chosen(branch) {
                (branch.state, branch.waiting) = (state, true);
                effects.push(effect(at));
            }
        }
        effects
    }

    /// The branch that an answer is for, when it is waited for.
    fn answering(&mut self, at: usize) -> Option<&mut Branch> {
        let branch = self.branches.get_mut(at).filter(|branch| branch.waiting)?;
        branch.waiting = false;
        Some(branch)
    }
}

/// One step. Inputs that come twice, late or for another phase change nothing; calls that are out of order are refused.
#[must_use]
pub fn step(mut state: State, input: Input) -> (State, Vec<Effect>) {
    let effects = match input {
        Input::Begin | Input::Prepare | Input::PreCommit | Input::Commit | Input::Rollback => {
            steps::called(&mut state, input)
        }
        Input::Recorded(written) if state.phase == Phase::Recording => {
            state.phase = if written { Phase::Active } else { Phase::Ended(Outcome::Aborted) };
            Vec::new()
        }
        Input::Voted(at, answer) if state.phase == Phase::Preparing => steps::voted(&mut state, at, answer),
        Input::PreCommitted(at, reached) if state.phase == Phase::PreCommitting => {
            let answered = state.answering(at).is_some();
            steps::pre_committed(&mut state, answered && !reached)
        }
        Input::LastAnswered(answer) if state.phase == Phase::AskingLast => {
            steps::last_answered(&mut state, answer)
        }
        Input::Decided(standing) if matches!(state.phase, Phase::Deciding(_)) => {
            steps::decided(&mut state, standing)
        }
        Input::Acked(at, ack) => steps::acked(&mut state, at, ack),
        Input::Timeout => steps::timeout(&mut state),
        Input::Recover if state.phase == Phase::New => steps::recover(&mut state),
        _ => Vec::new(),
    };
    (state, effects)
}
