//! The transitions: what each call and each answer makes of a state.

use super::{
    Ack, Answer, Branch, BranchKind, BranchState, Decision, Effect, Heuristic, Input, Outcome, Phase,
    Protocol, Refusal, State, outcome,
};

pub(super) fn called(state: &mut State, input: Input) -> Vec<Effect> {
    match decide_call(state, input) {
        Ok(effects) => effects,
        Err(refusal) => vec![Effect::Refuse(refusal)],
    }
}

fn decide_call(state: &mut State, input: Input) -> Result<Vec<Effect>, Refusal> {
    match state.phase {
        Phase::Ended(Outcome::InDoubt) => return Err(Refusal::InDoubt),
        Phase::Ended(_) => return Err(Refusal::AlreadyDecided(state.decision.unwrap_or(Decision::Abort))),
        Phase::Committing => return Err(Refusal::AlreadyDecided(Decision::Commit)),
        Phase::RollingBack => return Err(Refusal::AlreadyDecided(Decision::Abort)),
        Phase::Recording
        | Phase::Preparing
        | Phase::PreCommitting
        | Phase::AskingLast
        | Phase::Deciding(_) => {
            return Err(Refusal::Busy);
        }
        Phase::New if !matches!(input, Input::Begin) => return Err(Refusal::NotBegun),
        _ => {}
    }
    let ready = match state.protocol {
        Protocol::TwoPhase => Phase::Prepared,
        Protocol::ThreePhase => Phase::PreCommitted,
    };
    match (input, state.phase) {
        (Input::Begin, Phase::New) if state.is_logged() => {
            state.phase = Phase::Recording;
            Ok(vec![Effect::Record])
        }
        (Input::Begin, Phase::New) => {
            state.phase = Phase::Active;
            Ok(Vec::new())
        }
        (Input::Begin, _) => Err(Refusal::AlreadyBegun),
        (Input::Prepare, Phase::Active) => Ok(prepare(state)),
        (Input::Prepare, _) => Err(Refusal::Busy),
        (Input::PreCommit, _) if state.protocol == Protocol::TwoPhase => Err(Refusal::NoPreCommit),
        (Input::PreCommit, Phase::Prepared) => {
            state.phase = Phase::PreCommitting;
            let prepared =
                |branch: &Branch| (branch.state == BranchState::Prepared).then_some(BranchState::Prepared);
            let mut effects = state.each(prepared, Effect::PreCommit);
            effects.extend(pre_committed(state, false));
            Ok(effects)
        }
        (Input::Commit, phase) if phase == ready => Ok(commit(state)),
        (Input::Commit, Phase::Prepared) => Err(Refusal::NotPreCommitted),
        (Input::PreCommit | Input::Commit, _) => Err(Refusal::NotPrepared),
        // The last resource was not asked yet, or the phase would be another: the coordinator alone decides.
        (_, _) => Ok(ask_log(state, Decision::Abort)),
    }
}

fn prepare(state: &mut State) -> Vec<Effect> {
    state.phase = Phase::Preparing;
    let asked = |branch: &Branch| (branch.kind == BranchKind::TwoPhase).then_some(BranchState::Preparing);
    let effects = state.each(asked, Effect::Prepare);
    if effects.is_empty() {
        state.phase = Phase::Prepared;
    }
    effects
}

pub(super) fn voted(state: &mut State, at: usize, answer: Answer) -> Vec<Effect> {
    let Some(branch) = state.answering(at) else { return Vec::new() };
    branch.state = match answer {
        Answer::Prepared => BranchState::Prepared,
        Answer::ReadOnly => BranchState::ReadOnly,
        Answer::No => BranchState::Refused,
        Answer::Unknown => BranchState::Unknown,
    };
    if !state.is_waiting() {
        let can = |branch: &Branch| match branch.kind {
            BranchKind::TwoPhase => matches!(branch.state, BranchState::Prepared | BranchState::ReadOnly),
            BranchKind::Last => true,
        };
        state.phase = if state.branches.iter().all(can) { Phase::Prepared } else { Phase::Doomed };
    }
    Vec::new()
}

/// The second round ends with its last answer, or as soon as one failed.
pub(super) fn pre_committed(state: &mut State, failed: bool) -> Vec<Effect> {
    if failed {
        state.phase = Phase::Doomed;
        state.branches.iter_mut().for_each(|branch| branch.waiting = false);
    } else if !state.is_waiting() {
        state.phase = Phase::PreCommitted;
        return vec![Effect::NotePreCommitted];
    }
    Vec::new()
}

fn commit(state: &mut State) -> Vec<Effect> {
    match state.last() {
        Some(last) => {
            (state.phase, state.asked_last) = (Phase::AskingLast, true);
            vec![Effect::CommitLast(last)]
        }
        None => ask_log(state, Decision::Commit),
    }
}

fn ask_log(state: &mut State, decision: Decision) -> Vec<Effect> {
    state.phase = Phase::Deciding(decision);
    state.asked_commit |= decision == Decision::Commit;
    vec![Effect::Decide(decision)]
}

pub(super) fn last_answered(state: &mut State, answer: Option<Decision>) -> Vec<Effect> {
    let Some(last) = state.last() else { return Vec::new() };
    match answer {
        Some(decision) => {
            state.branches[last].state = match decision {
                Decision::Commit => BranchState::Committed,
                Decision::Abort => BranchState::RolledBack,
            };
            if state.is_logged() { ask_log(state, decision) } else { decided(state, Some(decision)) }
        }
        // The answer to its commit was lost: its marker knows. When nobody can ask it now, recovery does later.
        None if std::mem::take(&mut state.asked_last) => vec![Effect::AskLast(last)],
        None => in_doubt(state),
    }
}

fn in_doubt(state: &mut State) -> Vec<Effect> {
    state.phase = Phase::Ended(Outcome::InDoubt);
    vec![Effect::Close]
}

pub(super) fn decided(state: &mut State, standing: Option<Decision>) -> Vec<Effect> {
    let Some(decision) = standing else {
        let last = state.last().map(|last| state.branches[last].state);
        return match state.phase {
            // The last resource has decided, and the log only repeats it: asking for the opposite would be a lie.
            Phase::Deciding(asked)
                if matches!(last, Some(BranchState::Committed | BranchState::RolledBack)) =>
            {
                state.decision = Some(asked);
                end(state)
            }
            // The answer to COMMIT was lost: asking for the opposite makes the log say what stands.
            Phase::Deciding(Decision::Commit) if state.is_logged() => {
                state.phase = Phase::Deciding(Decision::Abort);
                vec![Effect::Decide(Decision::Abort)]
            }
            _ if state.asked_commit => in_doubt(state),
            // Nobody ever asked to commit, so nobody will: aborted, and recovery rolls back once the log can be asked.
            _ => {
                state.decision = Some(Decision::Abort);
                end(state)
            }
        };
    };
    state.decision = Some(decision);
    last_follows(state, decision);
    let open = |branch: &Branch| !branch.state.is_final();
    let effects = match decision {
        Decision::Commit => {
            state.phase = Phase::Committing;
            state.each(|branch| open(branch).then_some(BranchState::CommitFailed), Effect::Commit)
        }
        Decision::Abort => {
            state.phase = Phase::RollingBack;
            state.each(|branch| open(branch).then_some(BranchState::RollbackFailed), Effect::Rollback)
        }
    };
    if effects.is_empty() { end(state) } else { effects }
}

/// The last resource has ended before the log was asked. When another decision stands, somebody has not asked it first.
fn last_follows(state: &mut State, decision: Decision) {
    let Some(last) = state.last() else { return };
    let against = match (decision, state.branches[last].state) {
        (Decision::Abort, BranchState::Committed) => Heuristic::Committed,
        (Decision::Commit, BranchState::RolledBack) => Heuristic::RolledBack,
        _ => return,
    };
    state.branches[last].state = BranchState::Heuristic(against);
}

pub(super) fn acked(state: &mut State, at: usize, ack: Ack) -> Vec<Effect> {
    let done = match state.phase {
        Phase::Committing => BranchState::Committed,
        Phase::RollingBack => BranchState::RolledBack,
        _ => return Vec::new(),
    };
    let Some(branch) = state.answering(at) else { return Vec::new() };
    match ack {
        Ack::Done => branch.state = done,
        Ack::Heuristic(heuristic) => branch.state = BranchState::Heuristic(heuristic),
        Ack::Later => {}
    }
    if state.is_waiting() { Vec::new() } else { end(state) }
}

fn end(state: &mut State) -> Vec<Effect> {
    let decision = state.decision.unwrap_or(Decision::Abort);
    state.phase = Phase::Ended(outcome::of(decision, state));
    vec![Effect::Close]
}

pub(super) fn timeout(state: &mut State) -> Vec<Effect> {
    match state.phase {
        Phase::Preparing => {
            for branch in state.branches.iter_mut().filter(|branch| branch.waiting) {
                (branch.state, branch.waiting) = (BranchState::Unknown, false);
            }
            state.phase = Phase::Doomed;
            Vec::new()
        }
        Phase::PreCommitting => pre_committed(state, true),
        Phase::AskingLast => last_answered(state, None),
        Phase::Deciding(_) => decided(state, None),
        Phase::Committing | Phase::RollingBack => {
            state.branches.iter_mut().for_each(|branch| branch.waiting = false);
            end(state)
        }
        _ => Vec::new(),
    }
}

/// A decision that stands is carried out; an undecided transaction is aborted, unless the log or the last resource knows better.
pub(super) fn recover(state: &mut State) -> Vec<Effect> {
    state.asked_commit = true;
    match (state.decision, state.last()) {
        (Some(decision), last) => {
            // A last resource had to answer before anybody could decide to commit.
            if let (Decision::Commit, Some(last)) = (decision, last) {
                state.branches[last].state = BranchState::Committed;
            }
            decided(state, Some(decision))
        }
        (None, Some(last)) => {
            state.phase = Phase::AskingLast;
            vec![Effect::AskLast(last)]
        }
        (None, None) => ask_log(state, Decision::Abort),
    }
}
