use std::time::Duration;

use super::{Answer::*, Effect::*, *};

/// So many tries, the first two without a pause between them.
fn tries(attempts_max: u32) -> RetryPolicy {
    let pause = Duration::from_secs(1);
    RetryPolicy { attempts_max, immediate_max: 2, pause, pause_max: pause }
}

fn plan(steps: usize, pivot: Option<usize>) -> Plan {
    let rules = |at| Rules {
        compensates: pivot.is_none_or(|pivot| at < pivot),
        retries_doubt: true,
        action: tries(3),
        compensation: tries(2),
    };
    Plan { steps: (0..steps).map(rules).collect(), pivot }
}

/// Feeds inputs, and returns what the last one led to.
fn run(plan: &Plan, inputs: &[Input]) -> (State, Vec<Effect>) {
    let first = (State::new(plan.steps.len()), Vec::new());
    inputs.iter().fold(first, |(state, _), input| step(plan, state, *input, 1.0))
}

fn statuses(state: &State) -> String {
    let all: Vec<_> = state.steps.iter().map(|step| step.status.to_string()).collect();
    all.join(" ")
}

use Input::{Acted, Compensated, Overdue, Resume, Settled};

#[test]
fn steps_are_done_one_after_the_other() {
    let plan = plan(2, None);
    assert_eq!(run(&plan, &[Resume]).1, [Hold, Act(0)]);
    assert_eq!(run(&plan, &[Resume, Acted(0, Done)]).1, [Hold, Act(1)]);
    let (state, effects) = run(&plan, &[Resume, Acted(0, Done), Acted(1, Done)]);
    assert_eq!((statuses(&state).as_str(), effects), ("done done", vec![Finish(Outcome::Completed)]));
}

#[test]
fn what_was_done_is_undone_backwards_and_what_failed_is_not() {
    let plan = plan(3, None);
    let failed = [Resume, Acted(0, Done), Acted(1, Done), Acted(2, Permanent)];
    let (state, effects) = run(&plan, &failed);
    assert_eq!((statuses(&state).as_str(), effects), ("done compensating failed", vec![Hold, Compensate(1)]));
    let (state, effects) = run(&plan, &[&failed[..], &[Compensated(1, Done), Compensated(0, Done)]].concat());
    assert_eq!(statuses(&state), "compensated compensated failed");
    assert_eq!(effects, [Finish(Outcome::Compensated)]);
}

#[test]
fn actions_and_compensations_have_attempts_of_their_own() {
    let plan = plan(2, None);
    let mut inputs = vec![Resume, Acted(0, Done), Acted(1, Failed)];
    assert_eq!(run(&plan, &inputs).1, [Hold, Act(1)], "the second try is at once");
    inputs.push(Acted(1, Failed));
    assert_eq!(run(&plan, &inputs).1, [Pause(Duration::from_secs(1))]);
    inputs.extend([Resume, Acted(1, Failed)]);
    let (state, effects) = run(&plan, &inputs);
    assert_eq!((state.steps[1].attempts, effects), (3, vec![Hold, Compensate(0)]));
    inputs.push(Compensated(0, Failed));
    assert_eq!(run(&plan, &inputs).1, [Hold, Compensate(0)], "none were used up by the action of another");
    inputs.push(Compensated(0, Failed));
    let (state, effects) = run(&plan, &inputs);
    assert_eq!((statuses(&state).as_str(), effects), ("stuck failed", vec![AskForHelp, Alert(0)]));
    assert_eq!((state.steps[0].attempts, state.steps[0].compensations), (1, 2));
}

#[test]
fn what_had_no_answer_is_tried_again_or_undone() {
    let mut plan = plan(2, None);
    assert_eq!(run(&plan, &[Resume, Acted(0, InDoubt)]).1, [Hold, Act(0)]);
    assert_eq!(run(&plan, &[Resume, Resume]).1, [Hold, Act(0)], "so is what a dead process began");
    let (state, effects) = run(&plan, &[Resume, Resume, Acted(0, Permanent)]);
    assert_eq!((statuses(&state).as_str(), effects), ("compensating pending", vec![Hold, Compensate(0)]));
    let (state, effects) = run(&plan, &[Resume, Resume, Acted(0, Refused)]);
    assert_eq!(statuses(&state), "failed pending", "what never will be done has nothing to undo");
    assert_eq!(effects, [Finish(Outcome::Compensated)]);
    plan.steps[0].retries_doubt = false;
    for inputs in [[Resume, Acted(0, InDoubt)], [Resume, Resume]] {
        assert_eq!(run(&plan, &inputs).1, [Hold, Compensate(0)], "{inputs:?}");
    }
}

#[test]
fn compensation_goes_past_what_cannot_be_undone() {
    let plan = plan(3, None);
    let mut inputs = vec![Resume, Acted(0, Done), Acted(1, Done), Acted(2, Permanent)];
    inputs.extend([Compensated(1, Failed), Compensated(1, Permanent)]);
    assert_eq!(run(&plan, &inputs).1, [Hold, Alert(1), Compensate(0)]);
    inputs.push(Compensated(0, Done));
    let (state, effects) = run(&plan, &inputs);
    assert_eq!((statuses(&state).as_str(), effects), ("compensated stuck failed", vec![AskForHelp]));
    assert_eq!(step(&plan, resumed(state.clone()), Resume, 1.0).1, [Hold, Compensate(1)]);
    assert!(skipped(state.clone(), 0, "a").unwrap_err().to_string().contains("is compensated"));
    let (state, effects) = step(&plan, skipped(state, 1, "b").unwrap(), Resume, 1.0);
    assert_eq!(statuses(&state), "compensated skipped failed");
    assert_eq!(effects, [Finish(Outcome::Compensated)]);
}

#[test]
fn after_the_pivot_there_is_only_forward() {
    let plan = plan(3, Some(1));
    let done = [Resume, Acted(0, Done), Acted(1, Done)];
    let (state, effects) = run(&plan, &[&done[..], &[Acted(2, Permanent)]].concat());
    assert_eq!((statuses(&state).as_str(), effects), ("done done stuck", vec![AskForHelp, Alert(2)]));
    assert_eq!(step(&plan, state.clone(), Overdue, 1.0).0.direction, Direction::Forward);
    assert_eq!(step(&plan, resumed(state.clone()), Resume, 1.0).1, [Hold, Act(2)]);
    let (_, effects) = step(&plan, skipped(state, 2, "c").unwrap(), Resume, 1.0);
    assert_eq!(effects, [Finish(Outcome::Completed)]);
    let (state, effects) = run(&plan, &[Resume, Acted(0, Done), Acted(1, Permanent)]);
    assert_eq!(
        (statuses(&state).as_str(), effects),
        ("compensating failed pending", vec![Hold, Compensate(0)])
    );
}

#[test]
fn a_pivot_in_doubt_is_asked_before_there_is_a_way_back() {
    let plan = plan(3, Some(1));
    let asked = [Resume, Acted(0, Done), Acted(1, InDoubt), Acted(1, Permanent)];
    let (state, effects) = run(&plan, &asked);
    assert_eq!((statuses(&state).as_str(), effects), ("done settling pending", vec![Hold, Settle(1)]));
    let then = |inputs: &[Input]| run(&plan, &[&asked[..], inputs].concat()).1;
    assert_eq!(then(&[Settled(1, Some(true))]), [Hold, Act(2)]);
    assert_eq!(then(&[Settled(1, Some(false))]), [Hold, Compensate(0)]);
    assert_eq!(then(&[Settled(1, None)]), [Hold, Settle(1)]);
    assert_eq!(then(&[Settled(1, None), Settled(1, None)]), [AskForHelp, Alert(1)]);
    let (state, _) = run(&plan, &[&asked[..], &[Settled(1, None), Settled(1, None)]].concat());
    assert_eq!(step(&plan, resumed(state), Resume, 1.0).1, [Hold, Settle(1)]);
}

#[test]
fn past_its_deadline_a_saga_goes_back_as_long_as_it_can() {
    let plan = plan(3, Some(1));
    let late = |inputs: &[Input]| run(&plan, &[&[Overdue], inputs].concat());
    let (state, effects) = late(&[Resume]);
    assert_eq!(
        (statuses(&state).as_str(), effects),
        ("pending pending pending", vec![Finish(Outcome::Compensated)])
    );
    let (_, effects) = run(&plan, &[Resume, Acted(0, Done), Acted(1, Failed), Overdue, Acted(1, Failed)]);
    assert_eq!(effects, [Pause(Duration::from_secs(1))]);
    let overdue = run(&plan, &[Resume, Overdue, Acted(0, Done)]);
    assert_eq!(overdue.1, [Hold, Compensate(0)]);
    assert_eq!(run(&plan, &[Resume, Acted(0, Done), Overdue, Acted(1, Done)]).1, [Hold, Act(2)]);
}

#[test]
fn busy_is_no_attempt() {
    let plan = plan(1, None);
    let (state, effects) = run(&plan, &[Resume, Acted(0, Busy)]);
    assert_eq!((state.steps[0].attempts, effects), (0, vec![Pause(limits::ORCHESTRATION_BUSY_PAUSE)]));
    let (state, _) = run(&plan, &[Resume, Resume, Acted(0, Permanent), Compensated(0, Busy)]);
    assert_eq!(state.steps[0].compensations, 0);
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let plan = plan(2, None);
    let (state, _) = run(&plan, &[Resume, Acted(0, Done)]);
    for late in [Acted(0, Failed), Acted(7, Done), Compensated(0, Done), Settled(1, Some(true))] {
        assert_eq!(step(&plan, state.clone(), late, 1.0), (state.clone(), vec![]), "{late:?}");
    }
}

#[test]
fn statuses_are_read_as_they_are_written() {
    for status in ["pending", "started", "in_doubt", "stuck", "compensated"] {
        assert_eq!(status.parse::<StepStatus>().unwrap().to_string(), status);
    }
    assert!("later".parse::<StepStatus>().unwrap_err().contains("later"));
    for direction in [Direction::Forward, Direction::Back] {
        assert_eq!(direction.as_str().parse(), Ok(direction));
    }
}
