//! Every order of answers, losses, crashes and interference, tried on the coordinator that ships.
//!
//! The world around it (`models/world.rs`) is a model: a log, two branches, messages that may be lost, late or doubled, recovery
//! and sweeper that take over whenever they like, an operator who ends a prepared branch by hand. The search is exhaustive.
//! The flawed variants must fail: they prove that the search can see.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "models/search.rs"]
mod search;
#[path = "models/world.rs"]
mod world;

use barid::distributed::core::{BranchKind, Protocol};
use search::{Verdict, search};
use world::{Flaw, World};

const TWO: [BranchKind; 2] = [BranchKind::TwoPhase, BranchKind::TwoPhase];
const WITH_LAST: [BranchKind; 2] = [BranchKind::TwoPhase, BranchKind::Last];

fn sound(what: &str, world: World) {
    match search(world) {
        Verdict::Sound { states, steps } => {
            println!("{what}: {states} states, {steps} steps, safe, and can always finish");
            assert!(states > 500, "{what}: the search saw only {states} states");
        }
        flaw => panic!("{what}: {flaw:?}"),
    }
}

fn unsafe_within(what: &str, steps_max: usize, world: World) {
    match search(world) {
        Verdict::Unsafe { steps, why } => {
            println!("{what}: {why} after {steps} steps");
            assert!(steps <= steps_max, "{what}: {steps} steps");
        }
        other => panic!("{what} was not noticed: {other:?}"),
    }
}

#[test]
fn two_phases_are_safe_and_can_always_finish() {
    sound("two-phase", World::new(Protocol::TwoPhase, &TWO));
}

#[test]
fn three_phases_are_safe_and_can_always_finish() {
    sound("three-phase", World::new(Protocol::ThreePhase, &TWO));
}

#[test]
fn a_last_resource_is_safe_and_can_always_finish() {
    sound("last resource", World::new(Protocol::TwoPhase, &WITH_LAST));
}

#[test]
fn recovery_and_sweeper_at_once_are_safe() {
    sound("two recoveries", World::new(Protocol::TwoPhase, &TWO).recoveries(2));
}

#[test]
fn what_an_operator_ends_by_hand_is_always_reported() {
    sound("operator", World::new(Protocol::TwoPhase, &TWO).operator());
}

#[test]
fn the_flawed_variants_are_noticed() {
    let world = || World::new(Protocol::TwoPhase, &TWO);
    unsafe_within("no compare-and-set", 16, world().flaw(Flaw::NoCompareAndSet));
    unsafe_within("no durable decision", 16, world().flaw(Flaw::NoDurableDecision));
    unsafe_within("rollback after a partial commit", 16, world().flaw(Flaw::RollbackAfterPartialCommit));
    unsafe_within("recovery rolls partial commits back", 18, world().flaw(Flaw::RecoveryRollsBack));
    unsafe_within("not found means committed", 18, world().operator().flaw(Flaw::NotFoundMeansCommitted));
    unsafe_within("not found means rolled back", 18, world().operator().flaw(Flaw::NotFoundMeansRolledBack));
    unsafe_within("no tombstone", 16, world().flaw(Flaw::NoTombstone));
    unsafe_within("no answer means no", 16, world().flaw(Flaw::TimeoutIsNo));
    let three = World::new(Protocol::ThreePhase, &TWO);
    unsafe_within("branches commit by themselves", 18, three.flaw(Flaw::CommitsByItself));
    let last = World::new(Protocol::TwoPhase, &WITH_LAST);
    unsafe_within("recovery does not ask the last resource", 18, last.flaw(Flaw::LastNotAsked));
}
