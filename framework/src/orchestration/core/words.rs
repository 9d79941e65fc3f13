//! What goes into the core and comes out of it.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

/// Where a saga goes. Changes once at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Its steps are done.
    Forward,
    /// What was done is undone.
    Back,
}

/// How a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step was done.
    Completed,
    /// A step could not be done, and those before it were undone.
    Compensated,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Nothing of it was begun.
    Pending,
    /// Its action runs, or ran when its process died.
    Started,
    /// Its action has failed, or had no answer, and is tried again.
    Waiting,
    /// Nobody knows whether its action was done. It is undone in any case.
    InDoubt,
    /// The pivot is asked whether it was done.
    Settling,
    /// Its action was done.
    Done,
    /// Its action has failed for good, and nothing of it is there.
    Failed,
    /// Its compensation runs, or is tried again.
    Compensating,
    /// It was undone.
    Compensated,
    /// It waits for a human: forward its action, back its compensation.
    Stuck,
    /// A human has done what was left of it.
    Skipped,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It was done, now or by an attempt before.
    Done,
    /// It was not done, and may be tried again.
    Failed,
    /// It was not done, and trying again cannot help.
    Permanent,
    /// It was not done and never will be: its compensation was there first.
    Refused,
    /// It was not begun: somebody else is at it. No attempt.
    Busy,
    /// Nobody knows.
    InDoubt,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody has taken it over, or a pause is over.
    Resume,
    /// The deadline has passed. Goes before the next input.
    Overdue,
    /// The process is about to end: nothing is begun any more. Goes before the next input.
    Stop,
    /// The action of a step was tried.
    Acted(usize, Answer),
    /// The compensation of a step was tried.
    Compensated(usize, Answer),
    /// The pivot was asked whether it was done; `None`: nobody knows.
    Settled(usize, Option<bool>),
}

/// What is to be done. What is saved is the whole state, in one transaction; nothing that follows in the list may be done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Save it, and keep others away for as long as the next effect may take.
    Hold,
    /// Save it, and go on after a pause, whoever comes first.
    Pause(Duration),
    /// Save that it is over.
    Finish(Outcome),
    /// Save that a human has to look.
    AskForHelp,
    /// Tell people that this step hangs.
    Alert(usize),
    /// Do the action of a step.
    Act(usize),
    /// Undo a step that was done, or may have been.
    Compensate(usize),
    /// Find out whether the pivot was done, and make sure that it stays so.
    Settle(usize),
}

/// Every status, for reading and showing them.
const ALL: [(StepStatus, &str); 11] = [
    (StepStatus::Pending, "pending"),
    (StepStatus::Started, "started"),
    (StepStatus::Waiting, "waiting"),
    (StepStatus::InDoubt, "in_doubt"),
    (StepStatus::Settling, "settling"),
    (StepStatus::Done, "done"),
    (StepStatus::Failed, "failed"),
    (StepStatus::Compensating, "compensating"),
    (StepStatus::Compensated, "compensated"),
    (StepStatus::Stuck, "stuck"),
    (StepStatus::Skipped, "skipped"),
];

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = ALL.iter().find(|(status, _)| status == self);
        f.pad(found.map_or("", |(_, name)| name))
    }
}

impl FromStr for StepStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ALL.iter().find(|(_, name)| *name == text);
        found.map(|(status, _)| *status).ok_or_else(|| format!("no status of a step is called {text:?}"))
    }
}

impl Direction {
    /// As the tables spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Back => "back",
        }
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forward" => Ok(Self::Forward),
            "back" => Ok(Self::Back),
            _ => Err(format!("no direction of a saga is called {text:?}")),
        }
    }
}

impl Outcome {
    /// As the tables spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }
}
