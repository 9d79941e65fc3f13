//! What a human may change of a saga that waits for one. Needs no definition: an operator's program knows none.

use super::{Direction, State, StepStatus};

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It goes on by itself.
    #[error("step {step:?} is {status} and does not wait for anybody: only a stuck step can be skipped")]
    NotStuck {
        /// The step.
        step: String,
        /// Where it is.
        status: StepStatus,
    },
    /// There is no such step.
    #[error("it has no step {step:?}; its steps are {known}")]
    NoStep {
        /// What was asked for.
        step: String,
        /// What there is.
        known: String,
    },
}

/// The state in which every stuck step is tried again with all its attempts before it. Forward that is the action, or the question
/// whether the pivot was done; back it is the compensation.
#[must_use]
pub fn resumed(mut state: State) -> State {
    let direction = state.direction;
    for step in state.steps.iter_mut().filter(|step| step.status == StepStatus::Stuck) {
        let settling = direction == Direction::Forward && step.compensations > 0;
        step.status = match direction {
            Direction::Forward if settling => StepStatus::Settling,
            Direction::Forward => StepStatus::Waiting,
            Direction::Back => StepStatus::Compensating,
        };
        if direction == Direction::Back || settling {
            step.compensations = 0;
        } else {
            step.attempts = 0;
        }
    }
    state
}

/// The state in which a human has done, forward, or undone, back, a step that was stuck.
///
/// # Errors
/// When the step is not stuck.
pub fn skipped(mut state: State, at: usize, name: &str) -> Result<State, Refusal> {
    match state.steps.get_mut(at) {
        Some(step) if step.status == StepStatus::Stuck => step.status = StepStatus::Skipped,
        Some(step) => return Err(Refusal::NotStuck { step: name.to_owned(), status: step.status }),
        None => return Err(Refusal::NoStep { step: name.to_owned(), known: String::new() }),
    }
    Ok(state)
}
