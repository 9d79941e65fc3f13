//! Deliberately broken lanes: one for each rule of [`lane`](super), to show that the schedules notice.

use std::{cell::Cell, collections::BTreeSet, panic::catch_unwind};

use super::model;

/// What a broken variant does, by the number of the rule that it breaks.
macro_rules! variants {
    ($($rule:literal $name:ident: $does:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Broken { $(#[doc = $does] $name),* }

        const ALL: &[(usize, Broken)] = &[$(($rule, Broken::$name)),*];
    };
}

variants! {
    1 TakesAKnownRow: "a row that is read twice is published twice"
    2 ForgetsDuringARead: "a row is forgotten although a read that began earlier can still show it"
    3 LetsTwoRowsFly: "rows of a strict key fly together"
    4 FliesToTwoSinks: "rows of a pipelined key fly together to two sinks"
    5 GoesOnAfterAFailure: "rows of a key that were ready when an earlier one failed still start"
    6 ResumesBeforeItDrained: "a key resumes while rows of it are in flight"
    7 StopsForAWaitingKey: "nothing starts while a key waits"
    8 DeletesWhatIsUnknown: "an unknown outcome counts as a confirmation"
    9 ForgetsWhoIsBehind: "rows that are read after a parked row of their key are published"
    9 SkipsTheWholeKey: "a route that skips holds the key of the row"
    10 OrdersTheUnordered: "rows of a route without order wait for one another"
    11 OverfillsTheWindow: "more rows are in flight than the window has room for"
    12 BelievesOldAnswers: "a second answer to an old token settles the row that has its place now"
    13 RetriesAtOnce: "a row that failed is sent again without a pause"
    14 DropsWhatFailed: "a row that failed is forgotten"
    15 HoldsWithoutEnd: "as many keys are held as there are"
    16 LeavesWhatCameBack: "a row whose DELETE was answered and forgotten stays"
    17 HoldsEarlierRows: "a row that was put back before the poison row of its key is parked again"
    18 KeepsEverything: "a key that waits fills the memory"
    18 TakesRowsBehindTheLeftOut: "a row is taken although earlier ones of its key were left out"
    18 ForgetsWhatWasLeftOut: "what was left out is never read again"
}

#[test]
fn every_rule_is_numbered_and_has_a_broken_variant() {
    let rules =
        include_str!("../lane.rs").lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". "));
    let rules: BTreeSet<usize> = rules.filter_map(|(number, _)| number.parse().ok()).collect();
    let broken: BTreeSet<usize> = ALL.iter().map(|(rule, _)| *rule).collect();
    assert!(rules.iter().copied().eq(1..=rules.len()), "{rules:?}");
    assert_eq!(rules, broken, "left: rules of lane.rs, right: broken variants");
}

thread_local! {
    /// What a variant does wrong panics in the middle of the schedules, many times: expected, and not shown.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn every_broken_variant_is_caught() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !EXPECTED.get() {
            shown(panic);
        }
    }));
    EXPECTED.set(true);
    let caught =
        |variant| catch_unwind(|| model::run(model::SCHEDULES, model::seed(), Some(variant))).is_err();
    let missed: Vec<_> = ALL.iter().filter(|(_, variant)| !caught(*variant)).collect();
    EXPECTED.set(false);
    assert!(missed.is_empty(), "not noticed by {} schedules: {missed:?}", model::SCHEDULES);
}
