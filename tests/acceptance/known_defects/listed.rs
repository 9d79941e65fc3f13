//! The list and the tests agree: each entry has a test here that is run, and none is left out of it.

use std::{collections::BTreeSet, process::Command};

const LIST: &str = include_str!("../../../docs/known-defects.md");

/// `w01` of a line that begins with `| w01 |`.
fn listed() -> BTreeSet<&'static str> {
    let first_cell = |line: &'static str| line.strip_prefix("| w").and_then(|rest| rest.split(' ').next());
    let numbers =
        LIST.lines().filter_map(first_cell).filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
    numbers.collect()
}

/// The names that this program says it runs.
fn tests(arguments: &[&str]) -> Vec<String> {
    let listed = Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn every_known_defect_has_a_test_that_runs() {
    let (all, ignored) = (tests(&["--list"]), tests(&["--list", "--ignored"]));
    assert!(ignored.is_empty(), "ignored: {ignored:?}");
    let number =
        |test: &str| Some(test.rsplit("::").next()?.strip_prefix('w')?.split('_').next()?.to_owned());
    let tested: BTreeSet<String> = all.iter().filter_map(|test| number(test)).collect();
    let listed: BTreeSet<String> = listed().into_iter().map(str::to_owned).collect();
    let known = (1..=11).chain(14..=21).chain(23..=27).map(|number| format!("{number:02}"));
    let left_out: Vec<_> = known.filter(|number| !listed.contains(number)).collect();
    assert!(left_out.is_empty(), "not in docs/known-defects.md: {left_out:?}");
    assert_eq!(tested, listed, "left: tests, right: docs/known-defects.md");
}
