//! How the world goes on: what actors send when they learn something, and what messages do where they arrive.

use barid::distributed::core::{
    Ack, Answer, BranchState, Decision, Effect, Heuristic, Input, Phase, State, step,
};

use super::{Flaw, NOBODY, Op, Rm, World};

impl World {
    /// An actor learns something, and sends what it wants done.
    pub(super) fn told(&self, actor: usize, input: Input) -> Self {
        let mut next = self.clone();
        let Some(state) = next.actors[actor].take() else { return next };
        let (state, effects) = step(state, input);
        let mut unasked = None;
        for effect in effects {
            if actor > 0 && self.has(Flaw::LastNotAsked) && matches!(effect, Effect::AskLast(_)) {
                unasked = Some(Input::LastAnswered(Some(Decision::Abort)));
            } else {
                next.carry_out(actor, &state, effect);
            }
        }
        next.actors[actor] = Some(state);
        unasked.map_or(next.clone(), |answer| next.told(actor, answer))
    }

    pub(super) fn timed_out(&self, actor: usize) -> Self {
        let state = self.actors[actor].as_ref();
        let phase = state.map(|state| state.phase);
        if self.has(Flaw::TimeoutIsNo) && phase == Some(Phase::Preparing) {
            let silent =
                |at: &usize| state.is_some_and(|state| state.branches[*at].state == BranchState::Preparing);
            return (0..2)
                .filter(silent)
                .fold(self.clone(), |world, at| world.told(actor, Input::Voted(at, Answer::No)));
        }
        let mut next = self.told(actor, Input::Timeout);
        if self.has(Flaw::RollbackAfterPartialCommit) && phase == Some(Phase::Committing) {
            next.requests.extend([(actor, Op::Rollback(0)), (actor, Op::Rollback(1))]);
        }
        next
    }

    fn carry_out(&mut self, actor: usize, state: &State, effect: Effect) {
        let read_only = |at: usize| state.branches[at].state == BranchState::ReadOnly;
        let op = match effect {
            Effect::Record => Op::Record,
            Effect::Prepare(at) => Op::Prepare(at),
            Effect::PreCommit(at) => Op::PreCommit(at),
            Effect::CommitLast(at) => Op::CommitLast(at),
            Effect::AskLast(at) => Op::AskLast(at),
            Effect::Decide(Decision::Commit) => Op::DecideCommit([read_only(0), read_only(1)]),
            Effect::Decide(Decision::Abort) => Op::DecideAbort,
            Effect::Commit(at) => Op::Commit(at),
            Effect::Rollback(at) => Op::Rollback(at),
            Effect::Close => {
                if let (Phase::Ended(outcome), None) = (state.phase, state.pending().next()) {
                    self.closed = self.closed.or(Some(outcome));
                }
                return;
            }
            Effect::NotePreCommitted | Effect::Refuse(_) => return,
        };
        self.requests.insert((actor, op));
    }

    /// A message arrives, for the first time or again. Its answer arrives too, or is lost.
    pub(super) fn arrived(&self, actor: usize, op: Op) -> Vec<Self> {
        let one = |change: &dyn Fn(&mut Self) -> Option<Input>| {
            let mut next = self.clone();
            let answer = change(&mut next);
            let heard = answer.filter(|_| actor != NOBODY).map(|answer| next.told(actor, answer));
            [Some(next), heard].into_iter().flatten().collect::<Vec<_>>()
        };
        match op {
            Op::Record => one(&|next| {
                next.recorded = true;
                Some(Input::Recorded(true))
            }),
            Op::Prepare(at) if self.rms[at] == Rm::Active => [
                (Rm::Prepared, Answer::Prepared),
                (Rm::ReadOnly, Answer::ReadOnly),
                (Rm::Refused, Answer::No),
            ]
            .into_iter()
            .flat_map(|(rm, answer)| {
                one(&|next| {
                    next.rms[at] = rm;
                    Some(Input::Voted(at, answer))
                })
            })
            .collect(),
            Op::Prepare(at) if self.rms[at] == Rm::Tombstone => one(&|_| Some(Input::Voted(at, Answer::No))),
            Op::Prepare(at) => {
                one(&|next| (next.rms[at] == Rm::Prepared).then_some(Input::Voted(at, Answer::Prepared)))
            }
            Op::PreCommit(at) => one(&|next| {
                next.pre_committed[at] = next.rms[at] == Rm::Prepared;
                Some(Input::PreCommitted(at, next.pre_committed[at]))
            }),
            Op::CommitLast(at) if self.rms[at] == Rm::Active => [Rm::Committed, Rm::Refused]
                .into_iter()
                .flat_map(|rm| {
                    one(&|next| {
                        next.rms[at] = rm;
                        Some(Input::LastAnswered(Some(ended(rm))))
                    })
                })
                .collect(),
            Op::CommitLast(at) => one(&|next| Some(Input::LastAnswered(Some(ended(next.rms[at]))))),
            Op::AskLast(at) => one(&|next| {
                if next.rms[at] == Rm::Active {
                    next.rms[at] = Rm::Tombstone;
                }
                Some(Input::LastAnswered(Some(ended(next.rms[at]))))
            }),
            Op::DecideCommit(read_only) => one(&|next| Some(next.decide(Decision::Commit, read_only))),
            Op::DecideAbort => one(&|next| Some(next.decide(Decision::Abort, [false; 2]))),
            Op::Commit(at) => one(&|next| Some(Input::Acked(at, next.commit(at)))),
            Op::Rollback(at) => one(&|next| Some(Input::Acked(at, next.roll_back(at)))),
        }
    }

    fn decide(&mut self, decision: Decision, read_only: [bool; 2]) -> Input {
        if self.has(Flaw::NoDurableDecision) {
            return Input::Decided(Some(decision));
        }
        if self.decision.is_none() || self.has(Flaw::NoCompareAndSet) {
            (self.decision, self.read_only) = (Some(decision), read_only);
        }
        Input::Decided(self.decision)
    }

    fn commit(&mut self, at: usize) -> Ack {
        match self.rms[at] {
            Rm::Prepared => {
                self.rms[at] = Rm::Committed;
                Ack::Done
            }
            Rm::Committed => Ack::Done,
            _ if self.has(Flaw::NotFoundMeansCommitted) => Ack::Done,
            // No marker: it was never prepared, or ended by hand.
            _ => Ack::Heuristic(Heuristic::RolledBack),
        }
    }

    fn roll_back(&mut self, at: usize) -> Ack {
        match self.rms[at] {
            Rm::Prepared => {
                self.rms[at] = Rm::RolledBack;
                Ack::Done
            }
            Rm::Active if !self.has(Flaw::NoTombstone) => {
                self.rms[at] = Rm::Tombstone;
                Ack::Done
            }
            Rm::Committed if !self.has(Flaw::NotFoundMeansRolledBack) => Ack::Heuristic(Heuristic::Committed),
            _ => Ack::Done,
        }
    }

    pub(super) fn gone(&self, actor: usize) -> Self {
        let mut next = self.clone();
        next.actors[actor] = None;
        next
    }

    /// A recovery takes the transaction from the log.
    pub(super) fn taken_over(&self, actor: usize) -> Self {
        let mut next = self.gone(actor);
        let state =
            |at: usize| if self.read_only[at] { BranchState::ReadOnly } else { BranchState::Registered };
        let branches = [(self.kinds[0], state(0)), (self.kinds[1], state(1))];
        next.actors[actor] = Some(State::recovered(&branches, self.home, self.decision));
        if self.has(Flaw::RecoveryRollsBack) && self.decision == Some(Decision::Commit) {
            next.requests.extend([(actor, Op::Rollback(0)), (actor, Op::Rollback(1))]);
            return next;
        }
        next.told(actor, Input::Recover)
    }
}

fn ended(rm: Rm) -> Decision {
    if rm == Rm::Committed { Decision::Commit } else { Decision::Abort }
}
