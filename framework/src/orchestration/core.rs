//! One orchestrated saga as a pure function: from a state and an input to a new state and effects.
//!
//! The shell (`drive`) carries out the effects in their order and feeds the answers back; a state that was saved is all that another
//! process needs to go on. There is no I/O here and no clock: the caller says when a deadline has passed.
//!
//! What it promises: an attempt is saved before it is made; a saga that goes back never goes forward again, and one whose pivot was
//! done never goes back; a step that may have been done is undone; what cannot be undone stops nothing but the end of the saga.

use std::time::Duration;

use crate::{
    limits,
    retry::{Decision, RetryPolicy},
};

mod by_hand;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
mod words;

pub use by_hand::{Refusal, resumed, skipped};
pub use words::{Answer, Direction, Effect, Input, Outcome, StepStatus};

/// What holds for one step of every saga of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether it can be undone.
    pub compensates: bool,
    /// Whether an action whose answer did not come is tried again (its database tells when it was done), or undone at once.
    pub retries_doubt: bool,
    /// How often the action is tried.
    pub action: RetryPolicy,
    /// How often its compensation is tried, and how often the pivot is asked whether it was done.
    pub compensation: RetryPolicy,
}

/// What holds for every saga of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in their order.
    pub steps: Vec<Rules>,
    /// The step after which there is no way back.
    pub pivot: Option<usize>,
}

impl Plan {
    /// Whether a step comes after the pivot.
    fn only_forward(&self, at: usize) -> bool {
        self.pivot.is_some_and(|pivot| at > pivot)
    }
}

/// How far one step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepState {
    /// Where it is.
    pub status: StepStatus,
    /// Attempts of its action that were begun.
    pub attempts: u32,
    /// Attempts of its compensation that were begun; for a pivot, how often it was asked whether it was done.
    pub compensations: u32,
    /// Whether an attempt had no answer, so that its effect may be there or may still come.
    pub in_doubt: bool,
}

impl Default for StepState {
    fn default() -> Self {
        Self { status: StepStatus::Pending, attempts: 0, compensations: 0, in_doubt: false }
    }
}

/// How far a saga is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Forward, or back.
    pub direction: Direction,
    /// Its steps, in their order.
    pub steps: Vec<StepState>,
    /// Whether its deadline has passed. Not saved: whoever goes on says it again.
    pub overdue: bool,
    /// Whether its process is about to end, so that nothing is begun. Not saved.
    pub stopping: bool,
}

impl State {
    /// A saga of so many steps that has not begun.
    #[must_use]
    pub fn new(steps: usize) -> Self {
        let steps = vec![StepState::default(); steps];
        Self { direction: Direction::Forward, steps, overdue: false, stopping: false }
    }

    /// The first step that waits for a human.
    #[must_use]
    pub fn stuck(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.status == StepStatus::Stuck)
    }
}

/// What follows from an input. `jitter` in 0..1 spreads the pauses of what failed together. An answer that nobody waits for changes
/// nothing.
#[must_use]
pub fn step(plan: &Plan, mut state: State, input: Input, jitter: f64) -> (State, Vec<Effect>) {
    let effects = match input {
        Input::Overdue => {
            state.overdue = true;
            Vec::new()
        }
        Input::Stop => {
            state.stopping = true;
            Vec::new()
        }
        Input::Resume => resume(plan, &mut state),
        Input::Acted(at, answer) if is(&state, at, StepStatus::Started) => {
            acted(plan, &mut state, at, answer, jitter)
        }
        Input::Compensated(at, answer) if is(&state, at, StepStatus::Compensating) => {
            compensated(plan, &mut state, at, answer, jitter)
        }
        Input::Settled(at, happened) if is(&state, at, StepStatus::Settling) => {
            settled(plan, &mut state, at, happened, jitter)
        }
        Input::Acted(..) | Input::Compensated(..) | Input::Settled(..) => Vec::new(),
    };
    (state, effects)
}

fn is(state: &State, at: usize, status: StepStatus) -> bool {
    state.steps.get(at).is_some_and(|step| step.status == status)
}

fn resume(plan: &Plan, state: &mut State) -> Vec<Effect> {
    // Whoever ran it is gone, or has lost the right to say what came of it.
    if let Some(at) = state.steps.iter().position(|step| step.status == StepStatus::Started) {
        state.steps[at].in_doubt = true;
        state.steps[at].status = StepStatus::Waiting;
        if !retries_doubt(plan, at) {
            return give_up(plan, state, at);
        }
    }
    go_on(plan, state)
}

/// Goes on in the direction of the saga.
fn go_on(plan: &Plan, state: &mut State) -> Vec<Effect> {
    match state.direction {
        Direction::Forward => forward(plan, state),
        Direction::Back => back(plan, state),
    }
}

fn forward(plan: &Plan, state: &mut State) -> Vec<Effect> {
    let open = |step: &StepState| !matches!(step.status, StepStatus::Done | StepStatus::Skipped);
    let Some(at) = state.steps.iter().position(open) else {
        return vec![Effect::Finish(Outcome::Completed)];
    };
    let (rules, step) = (&plan.steps[at], &mut state.steps[at]);
    match step.status {
        StepStatus::Stuck => vec![Effect::AskForHelp],
        StepStatus::Settling if !rules.compensation.allows(step.compensations) => stuck(plan, state, at),
        _ if state.stopping => vec![Effect::Pause(Duration::ZERO)],
        StepStatus::Settling => {
            step.compensations += 1;
            vec![Effect::Hold, Effect::Settle(at)]
        }
        _ if state.overdue && !plan.only_forward(at) => give_up(plan, state, at),
        _ if !rules.action.allows(step.attempts) => give_up(plan, state, at),
        _ => {
            step.status = StepStatus::Started;
            step.attempts += 1;
            vec![Effect::Hold, Effect::Act(at)]
        }
    }
}

fn back(plan: &Plan, state: &mut State) -> Vec<Effect> {
    use StepStatus::{Compensating, Done, InDoubt};
    let undone = |at: &usize| {
        plan.steps[*at].compensates && matches!(state.steps[*at].status, Done | InDoubt | Compensating)
    };
    let Some(at) = (0..state.steps.len()).rev().find(undone) else {
        return match state.stuck() {
            Some(_) => vec![Effect::AskForHelp],
            None => vec![Effect::Finish(Outcome::Compensated)],
        };
    };
    let step = &mut state.steps[at];
    if !plan.steps[at].compensation.allows(step.compensations) {
        return stuck(plan, state, at);
    }
    if state.stopping {
        return vec![Effect::Pause(Duration::ZERO)];
    }
    step.status = Compensating;
    step.compensations += 1;
    vec![Effect::Hold, Effect::Compensate(at)]
}

fn acted(plan: &Plan, state: &mut State, at: usize, answer: Answer, jitter: f64) -> Vec<Effect> {
    let step = &mut state.steps[at];
    match answer {
        Answer::Done => {
            step.status = StepStatus::Done;
            // Whatever else was on its way has met the marker of this one, or will.
            step.in_doubt = false;
            return go_on(plan, state);
        }
        Answer::Busy => {
            step.attempts = step.attempts.saturating_sub(1);
            step.status = StepStatus::Waiting;
            return vec![Effect::Pause(limits::ORCHESTRATION_BUSY_PAUSE)];
        }
        Answer::Refused => step.in_doubt = false,
        Answer::InDoubt => step.in_doubt = true,
        Answer::Failed | Answer::Permanent => {}
    }
    step.status = StepStatus::Waiting;
    let again = match answer {
        Answer::Failed => true,
        Answer::InDoubt => retries_doubt(plan, at),
        _ => false,
    };
    match plan.steps[at].action.decide(state.steps[at].attempts, jitter) {
        Decision::Again(pause) if again => pause_or(plan, state, pause),
        _ => give_up(plan, state, at),
    }
}

fn compensated(plan: &Plan, state: &mut State, at: usize, answer: Answer, jitter: f64) -> Vec<Effect> {
    let step = &mut state.steps[at];
    match answer {
        Answer::Done => {
            step.status = StepStatus::Compensated;
            step.in_doubt = false;
            go_on(plan, state)
        }
        Answer::Busy => {
            step.compensations = step.compensations.saturating_sub(1);
            vec![Effect::Pause(limits::ORCHESTRATION_BUSY_PAUSE)]
        }
        _ => match plan.steps[at].compensation.decide(step.compensations, jitter) {
            Decision::Again(pause) => pause_or(plan, state, pause),
            Decision::DeadLetter => stuck(plan, state, at),
        },
    }
}

fn settled(plan: &Plan, state: &mut State, at: usize, happened: Option<bool>, jitter: f64) -> Vec<Effect> {
    let step = &mut state.steps[at];
    match happened {
        Some(happened) => {
            step.in_doubt = false;
            step.status = if happened { StepStatus::Done } else { StepStatus::Failed };
            if !happened {
                state.direction = Direction::Back;
            }
            go_on(plan, state)
        }
        None => match plan.steps[at].compensation.decide(step.compensations, jitter) {
            Decision::Again(pause) => pause_or(plan, state, pause),
            Decision::DeadLetter => stuck(plan, state, at),
        },
    }
}

/// The action of a step is not tried again.
fn give_up(plan: &Plan, state: &mut State, at: usize) -> Vec<Effect> {
    if plan.only_forward(at) {
        return stuck(plan, state, at);
    }
    let step = &mut state.steps[at];
    if plan.pivot == Some(at) && step.in_doubt {
        // Whether there is a way back is exactly what nobody knows.
        step.status = StepStatus::Settling;
        return forward(plan, state);
    }
    step.status = match (step.in_doubt, step.attempts) {
        (true, _) => StepStatus::InDoubt,
        (false, 0) => StepStatus::Pending,
        (false, _) => StepStatus::Failed,
    };
    state.direction = Direction::Back;
    back(plan, state)
}

/// A step waits for a human; what does not depend on it goes on.
fn stuck(plan: &Plan, state: &mut State, at: usize) -> Vec<Effect> {
    state.steps[at].status = StepStatus::Stuck;
    let mut effects = go_on(plan, state);
    // Behind the save, which comes first.
    effects.insert(1.min(effects.len()), Effect::Alert(at));
    effects
}

fn pause_or(plan: &Plan, state: &mut State, pause: Duration) -> Vec<Effect> {
    if pause.is_zero() { go_on(plan, state) } else { vec![Effect::Pause(pause)] }
}

fn retries_doubt(plan: &Plan, at: usize) -> bool {
    plan.steps[at].retries_doubt || plan.only_forward(at)
}
