//! Places at which a test lets the process die. Nothing of it is compiled without the feature `crash-points`.

use super::core::{Input, State};

/// Dies here when the environment variable `BARID_CRASH_AT` says so.
#[cfg(feature = "crash-points")]
pub(crate) fn point(name: &str) {
    if std::env::var("BARID_CRASH_AT").is_ok_and(|at| at == name) {
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn point(_: &str) {}

/// Dies here when `BARID_CRASH_AT` is `what name`: a point of something that has a name.
#[cfg(feature = "crash-points")]
pub(crate) fn point_of(what: &str, name: &str) {
    point(&format!("{what} {name}"));
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn point_of(_: &str, _: &str) {}

/// The points right after an input was taken, before anything that follows from it is done.
pub(super) fn after(state: &State, input: Input, recovering: bool) {
    use super::core::{Decision, Phase};
    let waiting = state.is_waiting();
    let name = match (input, state.phase) {
        (Input::Begin, _) => "c0",
        (Input::Recorded(_), _) => "c1",
        (Input::Recover, _) => "r1",
        (Input::Prepare, _) => "c3",
        (Input::Voted(..), Phase::Preparing) if waiting => "c5",
        (Input::Voted(..), Phase::Prepared) => "c6",
        (Input::PreCommitted(..), Phase::PreCommitting) => "p1",
        (Input::Decided(Some(_)), _) if recovering => "r2",
        (Input::Decided(Some(Decision::Commit)), _) => "c9",
        (Input::Decided(Some(Decision::Abort)), _) => "a1",
        (Input::Acked(..), _) if recovering => "r3",
        (Input::Acked(..), Phase::Committing) if waiting => "c11",
        (Input::Acked(..), Phase::RollingBack) if waiting => "a2",
        (Input::Acked(..), Phase::Ended(_)) => "c12",
        _ => return,
    };
    point(name);
}
