use super::*;

const TWO: [BranchKind; 2] = [BranchKind::TwoPhase, BranchKind::TwoPhase];

/// Feeds inputs, and returns where it ended with the effects of the last one.
fn run(mut state: State, inputs: &[Input]) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    for &input in inputs {
        (state, effects) = step(state, input);
    }
    (state, effects)
}

fn begun(protocol: Protocol, home: bool, kinds: &[BranchKind]) -> State {
    run(State::new(protocol, home, kinds), &[Input::Begin, Input::Recorded(true)]).0
}

fn prepared(protocol: Protocol, home: bool, kinds: &[BranchKind]) -> State {
    let mut state = step(begun(protocol, home, kinds), Input::Prepare).0;
    for at in 0..kinds.len() {
        state = step(state, Input::Voted(at, Answer::Prepared)).0;
    }
    state
}

#[test]
fn two_phases_from_the_beginning_to_the_end() {
    let (state, effects) = step(State::new(Protocol::TwoPhase, true, &TWO), Input::Begin);
    assert_eq!(effects, [Effect::Record], "who takes part is known before anybody is asked");
    let (state, effects) = run(state, &[Input::Recorded(true), Input::Prepare]);
    assert_eq!(effects, [Effect::Prepare(0), Effect::Prepare(1)]);
    let (state, effects) =
        run(state, &[Input::Voted(1, Answer::Prepared), Input::Voted(0, Answer::Prepared), Input::Commit]);
    assert_eq!(effects, [Effect::Decide(Decision::Commit)]);
    let (state, effects) = step(state, Input::Decided(Some(Decision::Commit)));
    assert_eq!(effects, [Effect::Commit(0), Effect::Commit(1)]);
    let (state, effects) = run(state, &[Input::Acked(0, Ack::Done), Input::Acked(1, Ack::Done)]);
    assert_eq!((state.phase, effects), (Phase::Ended(Outcome::Committed), vec![Effect::Close]));
    assert_eq!(state.pending().count(), 0);
}

#[test]
fn whoever_may_be_prepared_is_rolled_back() {
    for (answer, told) in [
        (Answer::No, vec![Effect::Rollback(1)]),
        (Answer::Unknown, vec![Effect::Rollback(0), Effect::Rollback(1)]),
    ] {
        let inputs = [Input::Prepare, Input::Voted(0, answer), Input::Voted(1, Answer::Prepared)];
        let (state, _) = run(begun(Protocol::TwoPhase, false, &TWO), &inputs);
        assert_eq!(state.phase, Phase::Doomed);
        assert_eq!(step(state.clone(), Input::Commit).1, [Effect::Refuse(Refusal::NotPrepared)]);
        let (_, effects) = run(state, &[Input::Rollback, Input::Decided(Some(Decision::Abort))]);
        assert_eq!(effects, told, "{answer:?}");
    }
    let inputs = [Input::Prepare, Input::Voted(0, Answer::Prepared), Input::Timeout, Input::Rollback];
    let (state, effects) = run(begun(Protocol::TwoPhase, false, &TWO), &inputs);
    assert_eq!(effects, [Effect::Decide(Decision::Abort)]);
    assert_eq!(state.branches[1].state, BranchState::Unknown);
    assert_eq!(step(state, Input::Decided(Some(Decision::Abort))).1.len(), 2);
}

#[test]
fn whoever_has_changed_nothing_has_no_second_phase() {
    let inputs = [
        Input::Prepare,
        Input::Voted(0, Answer::ReadOnly),
        Input::Voted(1, Answer::Prepared),
        Input::Commit,
        Input::Decided(Some(Decision::Commit)),
    ];
    assert_eq!(run(begun(Protocol::TwoPhase, true, &TWO), &inputs).1, [Effect::Commit(1)]);
}

#[test]
fn after_a_decision_nothing_asks_for_the_other_one() {
    let inputs =
        [Input::Commit, Input::Decided(Some(Decision::Commit)), Input::Acked(0, Ack::Done), Input::Timeout];
    let (state, effects) = run(prepared(Protocol::TwoPhase, true, &TWO), &inputs);
    assert_eq!((state.phase, effects), (Phase::Ended(Outcome::Committed), vec![Effect::Close]));
    assert_eq!(state.pending().collect::<Vec<_>>(), [1], "left to recovery");
    let (same, effects) = step(state.clone(), Input::Rollback);
    assert_eq!(effects, [Effect::Refuse(Refusal::AlreadyDecided(Decision::Commit))]);
    assert_eq!(same, state);
    // Somebody else was first.
    let (state, effects) = run(
        prepared(Protocol::TwoPhase, true, &TWO),
        &[Input::Commit, Input::Decided(Some(Decision::Abort))],
    );
    assert_eq!(effects, [Effect::Rollback(0), Effect::Rollback(1)]);
    assert_eq!(step(state, Input::Commit).1, [Effect::Refuse(Refusal::AlreadyDecided(Decision::Abort))]);
}

#[test]
fn an_unknown_decision_is_asked_for_and_never_guessed() {
    let (state, effects) =
        run(prepared(Protocol::TwoPhase, true, &TWO), &[Input::Commit, Input::Decided(None)]);
    assert_eq!(effects, [Effect::Decide(Decision::Abort)]);
    let (doubt, effects) = step(state.clone(), Input::Decided(None));
    assert_eq!((doubt.phase, effects), (Phase::Ended(Outcome::InDoubt), vec![Effect::Close]));
    assert_eq!(step(doubt, Input::Rollback).1, [Effect::Refuse(Refusal::InDoubt)]);
    assert_eq!(step(state, Input::Decided(Some(Decision::Commit))).1, [Effect::Commit(0), Effect::Commit(1)]);
    // Nobody ever asked to commit: that is an abort, whatever the log says later.
    let (state, _) = run(prepared(Protocol::TwoPhase, true, &TWO), &[Input::Rollback, Input::Decided(None)]);
    assert_eq!((state.phase, state.pending().count()), (Phase::Ended(Outcome::Aborted), 2));
}

#[test]
fn three_phases_ask_twice_before_they_decide() {
    let state = prepared(Protocol::ThreePhase, true, &TWO);
    assert_eq!(step(state.clone(), Input::Commit).1, [Effect::Refuse(Refusal::NotPreCommitted)]);
    let (state, effects) = step(state, Input::PreCommit);
    assert_eq!(effects, [Effect::PreCommit(0), Effect::PreCommit(1)]);
    let (late, _) = run(state.clone(), &[Input::PreCommitted(0, true), Input::PreCommitted(1, false)]);
    assert_eq!(late.phase, Phase::Doomed);
    assert_eq!(run(state.clone(), &[Input::PreCommitted(0, true), Input::Timeout]).0.phase, Phase::Doomed);
    let (state, effects) = run(state, &[Input::PreCommitted(0, true), Input::PreCommitted(1, true)]);
    assert_eq!(effects, [Effect::NotePreCommitted]);
    assert_eq!(step(state, Input::Commit).1, [Effect::Decide(Decision::Commit)]);
    let two = prepared(Protocol::TwoPhase, true, &TWO);
    assert_eq!(step(two, Input::PreCommit).1, [Effect::Refuse(Refusal::NoPreCommit)]);
}

#[test]
fn the_last_resource_decides() {
    let kinds = [BranchKind::TwoPhase, BranchKind::Last];
    let state =
        run(begun(Protocol::TwoPhase, false, &kinds), &[Input::Prepare, Input::Voted(0, Answer::Prepared)]).0;
    let (state, effects) = step(state, Input::Commit);
    assert_eq!(effects, [Effect::CommitLast(1)]);
    for decision in [Decision::Commit, Decision::Abort] {
        let (after, effects) = step(state.clone(), Input::LastAnswered(Some(decision)));
        assert_eq!(effects, [Effect::Decide(decision)]);
        let end = if decision == Decision::Commit { Effect::Commit(0) } else { Effect::Rollback(0) };
        assert_eq!(step(after.clone(), Input::Decided(Some(decision))).1, [end]);
        // The log does not answer: it is decided all the same, and the log must not be asked for the opposite.
        let outcome = if decision == Decision::Commit { Outcome::Committed } else { Outcome::Aborted };
        let (after, effects) = step(after, Input::Decided(None));
        assert_eq!((after.phase, effects), (Phase::Ended(outcome), vec![Effect::Close]));
    }
    let (state, effects) = step(state, Input::LastAnswered(None));
    assert_eq!(effects, [Effect::AskLast(1)], "its marker knows");
    assert_eq!(step(state, Input::LastAnswered(None)).0.phase, Phase::Ended(Outcome::InDoubt));
}

#[test]
fn a_last_resource_that_ended_against_the_decision_is_reported() {
    let kinds = [BranchKind::TwoPhase, BranchKind::Last];
    let state = begun(Protocol::TwoPhase, false, &kinds);
    for (did, stands, ack, reported) in [
        (Decision::Commit, Decision::Abort, Ack::Done, Heuristic::Committed),
        (Decision::Abort, Decision::Commit, Ack::Done, Heuristic::RolledBack),
    ] {
        let inputs = [
            Input::Prepare,
            Input::Voted(0, Answer::Prepared),
            Input::Commit,
            Input::LastAnswered(Some(did)),
            Input::Decided(Some(stands)),
            Input::Acked(0, ack),
        ];
        let (state, _) = run(state.clone(), &inputs);
        assert_eq!(state.branches[1].state, BranchState::Heuristic(reported));
        assert_eq!(state.phase, Phase::Ended(Outcome::Heuristic(Heuristic::Mixed)));
    }
}

#[test]
fn one_resource_alone_needs_no_log() {
    let (state, effects) = step(State::new(Protocol::TwoPhase, true, &[]), Input::Begin);
    assert_eq!((state.phase, effects), (Phase::Active, vec![]));
    let (state, effects) = run(state, &[Input::Prepare, Input::Commit]);
    assert_eq!(effects, [Effect::Decide(Decision::Commit)]);
    assert_eq!(step(state, Input::Decided(None)).0.phase, Phase::Ended(Outcome::InDoubt));
    let lone = State::new(Protocol::TwoPhase, false, &[BranchKind::Last]);
    let (state, effects) = run(lone, &[Input::Begin, Input::Prepare, Input::Commit]);
    assert_eq!(effects, [Effect::CommitLast(0)]);
    let (state, _) = step(state, Input::LastAnswered(Some(Decision::Commit)));
    assert_eq!(state.phase, Phase::Ended(Outcome::Committed));
}

#[test]
fn recovery_carries_out_what_stands_and_presumes_abort() {
    let branches =
        [(BranchKind::TwoPhase, BranchState::Registered), (BranchKind::TwoPhase, BranchState::Committed)];
    let recover = |decision| step(State::recovered(&branches, true, decision), Input::Recover);
    assert_eq!(recover(Some(Decision::Commit)).1, [Effect::Commit(0)]);
    let (state, effects) = recover(None);
    assert_eq!(effects, [Effect::Decide(Decision::Abort)]);
    assert_eq!(step(state.clone(), Input::Decided(Some(Decision::Commit))).1, [Effect::Commit(0)]);
    assert_eq!(step(state, Input::Decided(None)).0.phase, Phase::Ended(Outcome::InDoubt));
    let last = [(BranchKind::TwoPhase, BranchState::Registered), (BranchKind::Last, BranchState::Registered)];
    let (state, effects) = step(State::recovered(&last, false, None), Input::Recover);
    assert_eq!(effects, [Effect::AskLast(1)]);
    let effects = step(state, Input::LastAnswered(Some(Decision::Commit))).1;
    assert_eq!(effects, [Effect::Decide(Decision::Commit)]);
}

#[test]
fn what_ended_by_hand_is_reported() {
    let end = |home, acks: [Ack; 2]| {
        let inputs = [
            Input::Commit,
            Input::Decided(Some(Decision::Commit)),
            Input::Acked(0, acks[0]),
            Input::Acked(1, acks[1]),
        ];
        run(prepared(Protocol::TwoPhase, home, &TWO), &inputs).0.phase
    };
    let by_hand = Ack::Heuristic(Heuristic::RolledBack);
    assert_eq!(end(true, [by_hand, Ack::Done]), Phase::Ended(Outcome::Heuristic(Heuristic::Mixed)));
    assert_eq!(end(true, [by_hand, by_hand]), Phase::Ended(Outcome::Heuristic(Heuristic::Mixed)));
    assert_eq!(end(false, [by_hand, by_hand]), Phase::Ended(Outcome::Heuristic(Heuristic::RolledBack)));
    assert_eq!(
        end(false, [Ack::Heuristic(Heuristic::Hazard), Ack::Done]),
        Phase::Ended(Outcome::Heuristic(Heuristic::Hazard))
    );
}

#[test]
fn answers_that_come_twice_or_late_change_nothing() {
    let state = run(
        begun(Protocol::TwoPhase, false, &TWO),
        &[Input::Prepare, Input::Voted(0, Answer::Prepared), Input::Timeout],
    )
    .0;
    for late in [
        Input::Voted(0, Answer::No),
        Input::Voted(1, Answer::Prepared),
        Input::Voted(9, Answer::Prepared),
        Input::Acked(0, Ack::Done),
        Input::Decided(Some(Decision::Commit)),
        Input::LastAnswered(Some(Decision::Commit)),
        Input::Recorded(true),
        Input::Recover,
        Input::Timeout,
    ] {
        let (after, effects) = step(state.clone(), late);
        assert_eq!((&after, effects), (&state, vec![]), "{late:?}");
    }
}
