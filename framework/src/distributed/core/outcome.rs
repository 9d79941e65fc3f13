//! How a transaction ended, from how its branches did.

use super::{BranchState, Decision, State};

/// How a branch ended that did not end as it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heuristic {
    /// It was committed, and should have been rolled back.
    Committed,
    /// It was rolled back, and should have been committed.
    RolledBack,
    /// Part of it was committed and part rolled back.
    Mixed,
    /// Nobody knows, and nobody will find out.
    Hazard,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The decision to commit stands. Branches that have not confirmed it are completed by recovery.
    Committed,
    /// The decision to abort stands, or nobody can commit any more.
    Aborted,
    /// Nobody knows yet. Recovery finds out; until then nothing may be undone and nothing repeated.
    InDoubt,
    /// At least one branch ended in another way than was decided.
    Heuristic(Heuristic),
}

/// Everything that ended against the decision, joined with everything that followed it.
pub(super) fn of(decision: Decision, state: &State) -> Outcome {
    let followed = match decision {
        Decision::Commit => Heuristic::Committed,
        Decision::Abort => Heuristic::RolledBack,
    };
    let against = |state: BranchState| match state {
        BranchState::Heuristic(heuristic) => Some(heuristic),
        _ => None,
    };
    let mut heuristics = state.branches.iter().filter_map(|branch| against(branch.state));
    let Some(first) = heuristics.next() else {
        return match decision {
            Decision::Commit => Outcome::Committed,
            Decision::Abort => Outcome::Aborted,
        };
    };
    let joined = heuristics.fold(first, join);
    let some_followed = state.home
        || state.branches.iter().any(|branch| {
            against(branch.state).is_none()
                && !matches!(branch.state, BranchState::ReadOnly | BranchState::Refused)
        });
    Outcome::Heuristic(if some_followed { join(joined, followed) } else { joined })
}

/// Two that differ are mixed; not knowing one of them is a hazard; mixed stays mixed.
pub(super) fn join(one: Heuristic, other: Heuristic) -> Heuristic {
    match (one, other) {
        (Heuristic::Mixed, _) | (_, Heuristic::Mixed) => Heuristic::Mixed,
        (Heuristic::Hazard, _) | (_, Heuristic::Hazard) => Heuristic::Hazard,
        (one, other) if one == other => one,
        _ => Heuristic::Mixed,
    }
}
