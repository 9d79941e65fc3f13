//! What the coordinator is told, and what it asks for.

use super::{Decision, Heuristic};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The caller begins.
    Begin,
    /// The log has written down who takes part, or could not.
    Recorded(bool),
    /// The caller wants the branches prepared.
    Prepare,
    /// A branch answered.
    Voted(usize, Answer),
    /// The caller wants the second round of the three-phase protocol.
    PreCommit,
    /// A branch answered that; `false` when it failed.
    PreCommitted(usize, bool),
    /// The caller wants to commit.
    Commit,
    /// The caller wants to roll back.
    Rollback,
    /// What became of the last resource; `None`: nobody knows.
    LastAnswered(Option<Decision>),
    /// The decision that stands, whoever made it; `None`: nobody knows.
    Decided(Option<Decision>),
    /// A branch was told to end and answered.
    Acked(usize, Ack),
    /// Whoever has not answered in this phase is not waited for any longer.
    Timeout,
    /// Somebody takes over a transaction from the log.
    Recover,
}

/// What a branch says when it is asked to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It can commit, whatever happens.
    Prepared,
    /// It has changed nothing and needs no second phase.
    ReadOnly,
    /// It cannot commit, and has rolled back.
    No,
    /// There was an error: it may be prepared or not.
    Unknown,
}

/// What a branch says when it is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ack {
    /// It has ended as it was told to, now or before.
    Done,
    /// It had ended in another way.
    Heuristic(Heuristic),
    /// It has not ended, or did not answer: tell it again later.
    Later,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write down who takes part, before anybody is asked. Answered by [`Input::Recorded`].
    Record,
    /// Ask a branch to prepare. Answered by [`Input::Voted`].
    Prepare(usize),
    /// Ask a branch once more. Answered by [`Input::PreCommitted`].
    PreCommit(usize),
    /// Write down that everybody answered the second time; nothing depends on it.
    NotePreCommitted,
    /// Commit the last resource. Answered by [`Input::LastAnswered`].
    CommitLast(usize),
    /// Find out what became of the last resource, and make sure that it stays so. Answered by [`Input::LastAnswered`].
    AskLast(usize),
    /// Write the decision, unless there is one. Answered by [`Input::Decided`] with the one that stands.
    Decide(Decision),
    /// Tell a branch to commit. Answered by [`Input::Acked`].
    Commit(usize),
    /// Tell a branch to roll back, prepared or not. Answered by [`Input::Acked`].
    Rollback(usize),
    /// Write down how far it came.
    Close,
    /// The caller asked for something that cannot be done now. Nothing changed.
    Refuse(Refusal),
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It has not begun.
    #[error("the transaction has not begun: call begin() first")]
    NotBegun,
    /// It has begun.
    #[error("the transaction has already begun")]
    AlreadyBegun,
    /// Not every branch is prepared.
    #[error("the transaction is not prepared: call prepare_all() first, and roll back when it says false")]
    NotPrepared,
    /// The three-phase protocol asks a second time before it commits.
    #[error(
        "the transaction is not pre-committed: the three-phase protocol needs pre_commit_all() before commit_all()"
    )]
    NotPreCommitted,
    /// The two-phase protocol has no second round.
    #[error(
        "the two-phase protocol has no pre-commit: choose the three-phase protocol or leave pre_commit_all() out"
    )]
    NoPreCommit,
    /// The decision stands and is never taken back.
    #[error(
        "the transaction is already decided ({0:?}): the decision stands, and recovery completes what is missing"
    )]
    AlreadyDecided(Decision),
    /// Nobody knows how it ended. Recovery finds out.
    #[error(
        "the outcome of the transaction is not known yet: recovery finds out, nothing may be undone before"
    )]
    InDoubt,
    /// A call of it is still under way.
    #[error("another phase of the transaction is still under way")]
    Busy,
}
